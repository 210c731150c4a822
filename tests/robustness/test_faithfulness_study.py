import copy

import numpy as np
import pandas as pd
import pytest
import torch

from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.robustness.faithfulness import COLUMNS, DECORRELATED, faithfulness_metrics, mean_images
from xai_robustness.robustness.params import FaithfulnessParams


@pytest.fixture(scope="module")
def table(images, model):
    explainers = {name: ATTRIBUTORS.create(name, model) for name in ("saliency", "input_x_gradient")}
    params = FaithfulnessParams(patches=[56], fills=["blur"], members=1, rules=["kemeny"])
    few = images.subset(np.arange(6))
    return faithfulness_metrics(model, explainers, images, few, few, params, 0, "cpu")


def test_class_means_agree_with_numpy(images):
    whole, classes = mean_images(images, batch_size=5)
    x = images.tensor(slice(None)).double()
    assert torch.allclose(whole, x.mean(0))
    assert all(torch.allclose(classes[c], x[images.labels == c].mean(0)) for c in range(3))


def test_every_explainer_rule_and_kind_of_members_is_there(table):
    assert list(table) == COLUMNS
    kinds = ("naive", "theory", "static", "dynamic")
    ensembles = {f"{rule}-{kind}" for rule in ("kemeny", "normalised_mean") for kind in kinds}
    assert set(table.explainer) == ensembles | {"saliency", "input_x_gradient"}
    assert set(table.fill) == {"blur"} and set(table.top) == {True, False}
    assert {"test/clean/deletion_area", "test/clean/insertion_area"} <= set(table.metric)
    assert table.value.between(0, 1).all()


def test_nothing_masked_is_the_clean_prediction_for_everyone(table):
    first = table[table.metric == "test/clean/consistency_0"]
    assert (first.value == 1).all()
    assert table[table.metric == "test/clean/fidelity_0"].value.nunique() == 1


def test_members_with_models_of_their_own_are_played_against_the_same_classifier(images, model):
    params = FaithfulnessParams(patches=[56], fills=["blur"], members=1, rules=["borda"])
    few, names = images.subset(np.arange(6)), ("saliency", "input_x_gradient")
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        other[-1].weight.copy_(model[-1].weight.roll(1, 0))
    own = {"saliency": ATTRIBUTORS.create("saliency", twin), "input_x_gradient": ATTRIBUTORS.create(names[1], other)}
    explainers = {name: ATTRIBUTORS.create(name, model) for name in names}
    table = faithfulness_metrics(model, explainers, images, few, few, params, 0, "cpu", decorrelated=own)
    same, marked = table[~table.explainer.str.endswith(DECORRELATED)], table[table.explainer.str.endswith(DECORRELATED)]
    assert set(marked.explainer) == {name + DECORRELATED for name in same.explainer}

    def of(part, name):
        return part[part.explainer == name].drop(columns="explainer").reset_index(drop=True)

    pd.testing.assert_frame_equal(of(same, "saliency"), of(marked, "saliency" + DECORRELATED))
    assert not of(same, names[1]).equals(of(marked, names[1] + DECORRELATED))
    unmasked = [part[part.metric == "test/clean/fidelity_0"].value.unique() for part in (same, marked)]
    assert len(unmasked[0]) == 1 and (unmasked[0] == unmasked[1]).all()
