import copy

import numpy as np
import pandas as pd
import pytest
import torch
from tests.mitigation.toys import same, state

from xai_robustness.concepts.tcav import derivatives
from xai_robustness.metrics.bootstrap import once
from xai_robustness.mitigation.base import METHODS, REFERENCE
from xai_robustness.mitigation.params import PClarcParams
from xai_robustness.mitigation.sensitivity import TCAV_COLUMNS, Labelled, fit_direction, layer_to_judge, tcav_metrics
from xai_robustness.models.taps import pool
from xai_robustness.models.zoo import split


def labels_of(train, source="propagated"):
    table = pd.DataFrame({"sample_id": train.sample_ids, "split": "train", "class": train.labels})
    return table.assign(artifact=train.has_artifact, source=np.where(train.labels == 0, source, "assumed"))


def test_labelled_images_are_those_of_the_confirmed_classes(train):
    found = Labelled.of(train, labels_of(train))
    assert set(found.images.labels) == {0} and list(found.classes) == [0]
    np.testing.assert_array_equal(found.artifact, train.has_artifact[train.labels == 0])
    assert len(Labelled.of(train, labels_of(train), n_max=9).artifact) == 9
    assert Labelled.of(train, labels_of(train).assign(artifact=False)) is None


def test_the_direction_is_the_difference_of_the_pooled_means(model, train):
    labelled = Labelled.of(train, labels_of(train))
    with torch.no_grad():
        pooled = pool(split(model, "relu")[0](labelled.images.tensor(slice(None))), "max").double().numpy()
    wanted = pooled[labelled.artifact].mean(0) - pooled[~labelled.artifact].mean(0)
    found = fit_direction(model, "relu", labelled, "mean", "cpu", batch_size=5)
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_a_model_with_a_projection_is_judged_behind_it_and_compared_there(model, material, train):
    method = METHODS["p_clarc"](PClarcParams(layers=("relu",)))
    (corrected,) = method.correct(method.candidates(()), material)
    assert layer_to_judge(model) == "relu" and layer_to_judge(corrected.model) == "block.1"
    models = {REFERENCE: lambda: model, "p_clarc-relu": lambda: copy.deepcopy(corrected.model)}
    labelled = Labelled.of(train, labels_of(train))
    before = state(model)
    table = tcav_metrics(models, REFERENCE, labelled, train, "test/attacked", 0, "cpu", n_max=48, n_boot=50)
    assert list(table.columns) == list(TCAV_COLUMNS) and same(before, state(model))
    rows = table.set_index(["candidate", "metric"])
    own = rows.loc[(REFERENCE, "test/attacked/tcav_quotient")]
    assert (own.n, own.difference, own.layer) == (48, 0, "relu") and own.ci_low <= own.value <= own.ci_high
    other = rows.loc[("p_clarc-relu", "test/attacked/tcav_sensitivity")]
    classes, found = np.zeros(48, int), {}
    for name, load in models.items():
        vector = fit_direction(load(), "block.1", labelled, "signal", "cpu")
        found[name] = derivatives(load(), "block.1", vector[None], train, classes).quantities(once(48))
    found = {name: values["tcav_sensitivity"][0] for name, values in found.items()}
    assert other.layer == "block.1" and other.n == 48
    assert other.difference == pytest.approx(found["p_clarc-relu"] - found[REFERENCE], abs=1e-9)
    chance = rows.loc[(REFERENCE, "test/attacked/tcav_distance")].value
    assert chance == pytest.approx(abs(own.value - 0.5))
    assert 0 < rows.loc[(REFERENCE, "test/attacked/tcav_p_value")].value <= 1
    again = tcav_metrics(models, REFERENCE, labelled, train, "test/attacked", 0, "cpu", n_max=48, n_boot=50)
    pd.testing.assert_frame_equal(table, again)


def test_the_explained_logit_is_the_one_of_the_attacked_class(model, train):
    labelled = Labelled.of(train, labels_of(train))
    table = tcav_metrics({REFERENCE: lambda: model}, REFERENCE, labelled, train, "t", 0, "cpu", n_max=48, n_boot=5)
    vector = fit_direction(model, "relu", labelled, "signal", "cpu")
    classes = np.where(train.labels == 0, train.labels, 0)
    wanted = derivatives(model, "relu", vector[None], train, classes).quantities(once(48))
    found = table.set_index("metric").value
    assert found["t/tcav_sensitivity"] == pytest.approx(wanted["tcav_sensitivity"][0])


def test_with_nothing_confirmed_the_table_is_empty(model, train):
    assert tcav_metrics({REFERENCE: lambda: model}, REFERENCE, None, train, "t", 0, "cpu").empty
