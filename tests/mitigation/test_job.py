import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tests.mitigation.toys import same, state

from xai_robustness.concepts.cav import Cavs
from xai_robustness.mitigation import clarc, finetune
from xai_robustness.mitigation.base import METHODS, REFERENCE, grid
from xai_robustness.mitigation.job import CANDIDATES, CorrectedModels, CorrectionJob, load_corrected
from xai_robustness.mitigation.params import MitigationParams
from xai_robustness.models.checkpoint import build_from, describe
from xai_robustness.models.zoo import ModelParams
from xai_robustness.spread import WorkersParams
from xai_robustness.types import InputError

PARAMS = MitigationParams(
    vanilla={"batch_size": 16},
    rrr={"lambdas": [1.0, 10.0], "batch_size": 16},
    rr_clarc={"layers": ["relu", "block"], "lambdas": [1.0, 100.0], "batch_size": 16},
    p_clarc={"layers": ["relu", "block"]},
    reactive_p_clarc={"layers": ["block"]},
)
NAMES = {
    "vanilla",
    "vanilla_finetuned",
    "rrr-1",
    "rrr-10",
    *(f"rr_clarc-{layer}-{strength}" for layer in ("relu", "block") for strength in (1, 100)),
    "p_clarc-relu",
    "p_clarc-block",
    "reactive_p_clarc-block",
}


@pytest.fixture
def job(model, description, train, val, cavs, masks):
    return CorrectionJob(model, description, train, val, cavs, masks, PARAMS, seed=3)


@pytest.fixture
def finished(job, tmp_path):
    job.write(tmp_path / "out")
    return CorrectedModels(tmp_path / "out")


NEW = {
    "a_clarc": {"layers": ["relu"], "batch_size": 16},
    "iterative": {"layers": ["block"]},
    "cdep": {"lambdas": [1.0], "batch_size": 16},
    "dfr": {"lambdas": [1.0], "repeats": 2},
    "group_dro": {"lambdas": [0.1], "batch_size": 16},
    "jtt": {"lambdas": [5.0], "batch_size": 16},
}
OPT_IN = MitigationParams(
    rrr={"enabled": False},
    rr_clarc={"layers": ["relu"], "features": "full", "lambdas": [1.0], "batch_size": 16},
    p_clarc={"layers": ["relu"], "features": "full"},
    reactive_p_clarc={"layers": ["relu"], "also": ["svm"]},
    **{name: {"enabled": True, **group} for name, group in NEW.items()},
)


def test_every_opt_in_method_is_saved_and_loaded_by_itself_to_the_bit(
    model, description, train, val, cavs, masks, labelled, tmp_path
):
    labels = pd.DataFrame({"sample_id": train.sample_ids, "artifact": train.has_artifact})
    before = state(model)
    job = CorrectionJob(model, description, train, val, cavs, masks, OPT_IN, 3, artifact_labels=labels)
    job.write(tmp_path)
    models, images = CorrectedModels(tmp_path), train.tensor(slice(None))
    assert not models.absent and not (tmp_path / ".activations").exists() and same(before, state(model))
    made = {}
    for method, group in OPT_IN.methods().items():
        method = METHODS[method](group)
        mine = [c for c in grid(OPT_IN, model) if c.method == method.name]
        made |= {c.candidate.name: c.model for c in method.correct(mine, labelled)} if mine else {}
    assert set(made) == {c.name for c in models.candidates()}
    with torch.no_grad():
        for name, load in load_corrected(tmp_path).items():
            torch.testing.assert_close(load()(images), made[name](images), atol=1e-5, rtol=1e-5)
            again = load_corrected(tmp_path)[name]()
            assert torch.equal(load()(images), again(images))


def files(folder):
    kept = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "timing.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in kept}


def test_every_candidate_is_there_and_predicts_the_same_to_the_bit_after_loading(job, finished, material):
    assert {candidate.name for candidate in finished.candidates()} == NAMES
    images = material.train.tensor(slice(None))
    made = {}
    for method in METHODS:
        method = METHODS[method](getattr(PARAMS, method))
        mine = method.candidates(())
        for corrected in method.correct(mine, material) if mine else ():
            made[corrected.candidate.name] = corrected.model
    loaders = load_corrected(finished.folder)
    assert set(loaders) == set(made) == NAMES
    for name, load in loaders.items():
        loaded = load()
        assert not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(images), made[name](images)), name
        description = json.loads((finished.path(name) / "model.json").read_text())
        assert description["correction"]["name"] == name
        assert bool(description["insertions"]) == ("p_clarc" in name)
    assert same(state(loaders[REFERENCE]()), state(material.model))


def test_the_given_model_is_not_changed(job, tmp_path):
    before = state(job.model)
    job.write(tmp_path)
    assert same(before, state(job.model)) and not job.model.training


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(job, finished, tmp_path, monkeypatch):
    wanted = files(finished.folder)
    saved = []
    original = CorrectionJob._save

    def die_after_five(self, corrected, folder, seconds):
        if len(saved) == 5:
            (folder / f".partial-{corrected.candidate.name}").mkdir()
            raise KeyboardInterrupt
        saved.append(corrected.candidate.name)
        original(self, corrected, folder, seconds)

    monkeypatch.setattr(CorrectionJob, "_save", die_after_five)
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        job.write(folder)
    assert not (folder / CANDIDATES).exists() and len(saved) == 5
    monkeypatch.setattr(CorrectionJob, "_save", original)
    stamps = {name: (folder / name / "model.safetensors").stat().st_mtime_ns for name in saved}
    job.write(folder)
    assert files(folder) == wanted
    assert stamps == {name: (folder / name / "model.safetensors").stat().st_mtime_ns for name in saved}


def test_two_workers_side_by_side_make_the_same_models(job, finished, tmp_path):
    folder = tmp_path / "spread"
    workers = job.params.model_copy(update={"workers": WorkersParams(n=2)})
    shutil.copytree(finished.path("rrr-1"), folder / "rrr-1")
    (folder / ".activations-7").mkdir()
    dataclasses.replace(job, params=workers).write(folder)
    found = CorrectedModels(folder)
    assert found.candidates() == finished.candidates() and found.absent == finished.absent
    assert {path.name for path in folder.iterdir()} == {*NAMES, CANDIDATES}
    for name, load in load_corrected(folder).items():
        for key, value in finished.load(name).state_dict().items():
            torch.testing.assert_close(load().state_dict()[key], value, rtol=1e-4, atol=1e-6)


def test_a_finished_folder_is_left_as_it_is(job, finished, monkeypatch):
    monkeypatch.setattr(finetune, "finetune", None)
    monkeypatch.setattr(clarc, "finetune", None)
    before = files(finished.folder)
    job.write(finished.folder)
    assert files(finished.folder) == before


@pytest.mark.parametrize("cavs", [None, Cavs()])
def test_with_nothing_confirmed_only_vanilla_candidates_are_made(cavs, model, description, train, val, tmp_path):
    CorrectionJob(model, description, train, val, cavs, None, PARAMS).write(tmp_path)
    models = CorrectedModels(tmp_path)
    assert [candidate.name for candidate in models.candidates()] == ["vanilla", "vanilla_finetuned"]
    reasons = {record["name"]: record["reason"] for record in models.absent}
    assert set(reasons) == NAMES - {"vanilla", "vanilla_finetuned"}
    assert "no artifact was confirmed" in reasons["p_clarc-relu"]
    assert "mask" in reasons["rrr-1"]


def test_a_failed_candidate_leaves_its_reason_and_no_model(model, description, train, val, cavs, masks, tmp_path):
    params = MitigationParams(
        rr_clarc={"layers": ["relu"], "lambdas": [1e38, 1.0], "gradient_clip": 1e30},
        vanilla={"enabled": False},
        rrr={"enabled": False},
        p_clarc={"enabled": False},
        reactive_p_clarc={"enabled": False},
    )
    CorrectionJob(model, description, train, val, cavs, masks, params).write(tmp_path)
    models = CorrectedModels(tmp_path)
    assert [candidate.name for candidate in models.candidates()] == ["vanilla", "rr_clarc-relu-1"]
    record = next(record for record in models.records if record["name"] == "rr_clarc-relu-1e38")
    assert "became" in record["stopped"]
    assert not (models.path("rr_clarc-relu-1e38") / "model.safetensors").exists()


def test_unknown_layers_are_refused_before_anything_is_made(train, val, cavs, masks, tmp_path):
    params = MitigationParams(p_clarc={"layers": ["nowhere"]})
    description = describe(ModelParams(name="resnet18"), 3, (3, 16, 16), [0.5] * 3, [0.25] * 3)
    model = build_from(description)
    with pytest.raises(InputError, match="Unknown layer 'nowhere'"):
        CorrectionJob(model, description, train, val, cavs, masks, params).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_masks_may_lie_on_disk(model, description, train, val, cavs, tmp_path):
    import zarr

    from xai_robustness.mitigation.base import MaskTable

    rows = np.flatnonzero(train.has_artifact)
    store = zarr.open_group(tmp_path / "masks", mode="w")
    array = store.create_array("masks", shape=(len(rows), 16, 16), dtype="bool")
    array[:] = train.masks[rows]
    params = MitigationParams(
        rrr={"lambdas": [5.0], "batch_size": 16},
        rr_clarc={"enabled": False},
        p_clarc={"enabled": False},
        reactive_p_clarc={"enabled": False},
    )
    outputs = []
    for name, masks in (("disk", array), ("memory", train.masks[rows])):
        table = MaskTable(train.sample_ids[rows], masks)
        CorrectionJob(model, description, train, val, cavs, table, params).write(tmp_path / name)
        outputs.append(files(tmp_path / name))
    assert outputs[0] == outputs[1] and "rrr-5/model.safetensors" in outputs[0]


def test_masks_of_another_size_and_vectors_of_another_length_are_refused_at_once(
    model, description, train, val, cavs, masks, tmp_path
):
    from dataclasses import replace

    from xai_robustness.mitigation.base import MaskTable

    small = MaskTable(masks.sample_ids, masks.masks[:, ::2, ::2])
    with pytest.raises(InputError, match="16 x 16 pixels. Got 8 x 8"):
        CorrectionJob(model, description, train, val, cavs, small, PARAMS).write(tmp_path)
    short = Cavs((replace(cavs.find("relu", "signal"), vector=np.ones(5, np.float32)), *cavs))
    with pytest.raises(InputError, match="6 numbers in layer 'relu'. Got 5 for 'relu/signal'"):
        CorrectionJob(model, description, train, val, short, masks, PARAMS).write(tmp_path)
    assert list(tmp_path.iterdir()) == []
