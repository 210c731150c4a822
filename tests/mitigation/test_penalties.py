import numpy as np
import pytest
import torch
from tests.reference import clarc as naive

from xai_robustness.mitigation.penalties import AGGREGATIONS, CRITERIA, random_signs

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
SIGNS = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([1, 0])


@pytest.mark.parametrize("name", AGGREGATIONS.names())
def test_aggregations_equal_the_naive_equations(name):
    rng = np.random.default_rng(0)
    gradients, vector = rng.normal(size=(4, 5, 3, 2)), rng.normal(size=5)
    vector /= np.linalg.norm(vector)
    found = AGGREGATIONS[name](torch.from_numpy(gradients), torch.from_numpy(vector))
    assert float(found) == pytest.approx(naive.latent_penalty(gradients, vector, name), rel=1e-12)


@pytest.mark.parametrize("name", AGGREGATIONS.names())
def test_aggregations_vanish_for_orthogonal_gradients_and_take_pooled_ones(name):
    vector = torch.tensor([1.0, 0.0])
    assert AGGREGATIONS[name](torch.tensor([[[[0.0]], [[2.0]]]]), vector) == 0
    pooled = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    wanted = {"l2": 5.0, "l1": 2.0, "cosine": 0.8}[name.removesuffix("_mean")]
    assert float(AGGREGATIONS[name](pooled, vector)) == pytest.approx(wanted)


def test_aggregations_of_zero_gradients_have_finite_derivatives():
    for name in AGGREGATIONS:
        gradients = torch.zeros(2, 3, 2, 2, requires_grad=True)
        AGGREGATIONS[name](gradients, torch.tensor([1.0, 0.0, 0.0])).backward()
        assert torch.isfinite(gradients.grad).all()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("max_logit", [1.0, 3.0]),
        ("target_logit", [-2.0, 0.0]),
        ("all_logits", [-0.5, 2.0]),
        ("all_logits_random", [3.5, -4.0]),
        ("loss", [np.log(np.exp(x - x[y]).sum()) for x, y in zip(LOGITS.numpy(), (1, 0))]),
        ("softmax", [np.exp(x[y]) / np.exp(x).sum() for x, y in zip(LOGITS.numpy(), (1, 0))]),
        ("logprobs", [np.log(np.exp(x) / np.exp(x).sum()).mean() for x in LOGITS.numpy()]),
    ],
)
def test_criteria(name, wanted):
    assert CRITERIA[name](LOGITS, LABELS, SIGNS).tolist() == pytest.approx(wanted)


def test_criteria_of_multi_label_tasks():
    labels = torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert CRITERIA["target_logit"](LOGITS, labels, SIGNS).tolist() == [1.5, 0.0]
    wanted = np.log(1 / (1 + np.exp(-LOGITS.numpy()))).mean(1)
    assert CRITERIA["logprobs"](LOGITS, labels, SIGNS).tolist() == pytest.approx(wanted)
    chance = 1 / (1 + np.exp(-LOGITS.numpy()))
    assert CRITERIA["softmax"](LOGITS, labels, SIGNS).tolist() == pytest.approx([chance[0, [0, 2]].mean(), 0.0])
    wanted = -np.where(labels == 1, np.log(chance), np.log(1 - chance)).mean(1)
    assert CRITERIA["loss"](LOGITS, labels, SIGNS).tolist() == pytest.approx(wanted)


def test_every_criterion_gives_one_number_a_sample():
    for name in CRITERIA:
        assert CRITERIA[name](LOGITS, LABELS, SIGNS).shape == (2,)


def test_random_signs_are_balanced_and_repeatable():
    signs = [random_signs(torch.Size((500, 4)), torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*signs)
    assert set(signs[0].unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs[0].mean())) < 0.1
