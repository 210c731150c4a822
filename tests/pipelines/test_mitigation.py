from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import zarr
from tests.mitigation import conftest as toy
from tests.mitigation.toys import image_set

from xai_robustness.artifacts.insertion import ArtifactParams
from xai_robustness.mitigation.params import MitigationParams
from xai_robustness.models.checkpoint import save_model
from xai_robustness.models.saved import Classifier
from xai_robustness.pipelines.mitigation import nodes

tiny_architecture, description, model = toy.tiny_architecture, toy.description, toy.model
train, val, cavs = toy.train, toy.val, toy.cavs
OFF = ("vanilla", "rr_clarc", "reactive_p_clarc")
PARAMS = MitigationParams(
    **{name: {"enabled": False} for name in OFF},
    rrr={"lambdas": [1.0], "batch_size": 16},
    p_clarc={"layers": ["relu"]},
    dfr={"enabled": True, "lambdas": [1.0], "repeats": 2},
    allowed_clean_loss=1.0,
)


@pytest.fixture
def masks(train, tmp_path):
    group = zarr.open_group(tmp_path / "masks", mode="w")
    for name, values in (("masks", train.masks), ("sample_ids", train.sample_ids)):
        array = group.create_array(f"train/biased/{name}", shape=values.shape, dtype=values.dtype)
        array[:] = values
    return group


@pytest.mark.parametrize("confirmed", [True, False])
def test_the_chain_of_nodes_ends_in_a_verdict_and_a_page(
    model, description, train, val, cavs, masks, tmp_path, confirmed
):
    save_model(model, description, tmp_path / "classifier")
    classifier = Classifier(tmp_path / "classifier")
    has = train.has_artifact & confirmed
    labels = pd.DataFrame({"sample_id": train.sample_ids, "split": "train", "class": train.labels, "artifact": has})
    labels["source"] = "propagated"
    attacked = replace(image_set(30, 3, first_id=300), has_artifact=np.ones(30, bool))
    attacked.masks[:, :4, :4] = True
    clean = replace(image_set(30, 2, first_id=300), labels=attacked.labels)
    select, report = ({f"{s}/clean": clean, f"{s}/attacked": attacked} for s in ("val", "test"))
    store = masks if confirmed else zarr.open_group(tmp_path / "none", mode="w")
    vectors = cavs if confirmed else type(cavs)()
    fit = {"train/biased": train, "val/biased": val}
    job = nodes.correct_models(classifier, fit, vectors, store, masks, labels, PARAMS, 0, "cpu")
    folder = tmp_path / "corrected"
    job.write(folder)
    metrics = nodes.evaluate_corrections(classifier, folder, select, report, PARAMS, 0, "cpu")
    selection = nodes.select_correction(metrics, PARAMS)
    relevance = nodes.measure_relevance(classifier, folder, selection, report, 0, "cpu")
    tcav = nodes.measure_tcav(classifier, folder, selection, fit, report, labels, PARAMS, 0, "cpu")
    artifact = ArtifactParams()
    said = nodes.state_verdict(metrics, relevance, tcav, {}, selection, classifier, folder, report, artifact, PARAMS, 0)
    assert set(selection["best_by_method"]) == ({"rrr", "p_clarc", "dfr"} if confirmed else set())
    assert said["fingerprints"]["classifier"] == classifier.fingerprint and said["artifact"]["kind"] == artifact.kind
    assert (said["evidence"]["tcav"]["before"] is not None) is confirmed
    page = nodes.write_page("toy", said, selection, metrics, relevance, tcav, *[b"png"] * 6)
    assert said["sentence"].split(",")[0] in page and page.count("<img") == 6
