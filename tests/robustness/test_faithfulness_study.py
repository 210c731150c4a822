import numpy as np
import pytest
import torch

from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.robustness.faithfulness import COLUMNS, faithfulness_metrics, mean_images
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
