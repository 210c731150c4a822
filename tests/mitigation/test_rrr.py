import numpy as np
import pytest
import torch
from tests.mitigation.toys import same, state
from tests.reference import clarc as naive
from torch import nn

from xai_robustness.mitigation.base import METHODS, MaskTable, Material
from xai_robustness.mitigation.finetune import Step
from xai_robustness.mitigation.params import RrrParams
from xai_robustness.mitigation.rrr import MaskPenalty, overlap


def smooth_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()
    return net.eval()


IMAGES = np.random.default_rng(0).normal(size=(4, 2, 3, 3))
MASKS = np.random.default_rng(1).random((2, 3, 3)) < 0.5
TABLE = MaskTable(np.array([12, 10]), MASKS)
STEP = Step(torch.from_numpy(IMAGES), torch.tensor([0, 1, 2, 0]), np.array([10, 11, 12, 13]))


def naive_penalty(net):
    """Samples 10 and 12 have masks; mean over all four samples."""
    total = 0.0
    for at, mask in ((0, MASKS[1]), (2, MASKS[0])):
        image = IMAGES[at]

        def largest(x):
            return float(net(torch.from_numpy(x[None])).max())

        total += naive.cosine(np.abs(naive.gradient(largest, image).sum(0)), mask)
    return total / 4


def test_penalty_equals_finite_differences_and_logits_are_in_order():
    net = smooth_net()
    logits, found = MaskPenalty(TABLE)(net, STEP)
    assert float(found.detach()) == pytest.approx(naive_penalty(net), rel=1e-6)
    torch.testing.assert_close(logits, net(STEP.inputs), rtol=1e-12, atol=0)


def test_derivative_of_the_penalty_by_the_weights_equals_finite_differences():
    net = smooth_net()
    MaskPenalty(TABLE)(net, STEP)[1].backward()
    weight = net[3].weight

    def value(weights):
        with torch.no_grad():
            kept = weight.clone()
            weight.copy_(torch.from_numpy(weights))
        result = float(MaskPenalty(TABLE)(net, STEP)[1])
        with torch.no_grad():
            weight.copy_(kept)
        return result

    wanted = naive.gradient(value, weight.detach().numpy().copy())
    np.testing.assert_allclose(weight.grad.numpy(), wanted, atol=1e-7)
    assert np.abs(wanted).max() > 1e-3


def test_loss_gradients_reach_masked_and_unmasked_samples_alike():
    net = smooth_net()
    logits, _ = MaskPenalty(TABLE)(net, STEP)
    logits.square().sum().backward()
    found = net[3].weight.grad.clone()
    net.zero_grad()
    net(STEP.inputs).square().sum().backward()
    torch.testing.assert_close(found, net[3].weight.grad)


def test_a_batch_without_masks_costs_nothing_and_counts_zero():
    net = smooth_net()
    for table in (
        MaskTable.empty(),
        MaskTable(np.array([99]), MASKS[:1]),
        MaskTable(np.array([10]), MASKS[:1] & False),
    ):
        logits, penalty = MaskPenalty(table)(net, STEP)
        assert float(penalty) == 0 and not penalty.requires_grad
        assert torch.equal(logits, net(STEP.inputs))


def test_overlap_limits():
    mask = torch.tensor([[[True, False]], [[True, True]], [[False, False]]])
    gradients = torch.tensor([[[[-3.0, 0.0]]], [[[0.0, 0.0]]], [[[1.0, 2.0]]]])
    assert overlap(gradients, mask).tolist() == [1.0, 0.0, 0.0]
    assert overlap(torch.tensor([[[[0.0, 2.0]]]]), mask[:1]).tolist() == [0.0]
    cancelled = torch.tensor([[[[1.0, 2.0]], [[-1.0, 0.0]]]])
    assert overlap(cancelled, mask[:1]).tolist() == [0.0]


def test_mask_table_finds_by_sample_id():
    at, masks = TABLE.find(np.array([7, 12, 99, 10, 11]))
    assert at.tolist() == [1, 3]
    np.testing.assert_array_equal(masks, MASKS)
    assert len(MaskTable.empty().find(np.array([1, 2]))[0]) == 0


def test_rrr_takes_gradients_off_the_mask(material):
    method = METHODS["rrr"](RrrParams(lambdas=(0.0, 30.0), epochs=10, lr=0.05))
    before = state(material.model)
    plain, guided = method.correct(method.candidates(()), material)
    assert same(before, state(material.model))
    step = Step(material.train.tensor(slice(None)), torch.from_numpy(material.train.labels), material.train.sample_ids)
    values = [float(MaskPenalty(material.masks)(c.model, step)[1].detach()) for c in (plain, guided)]
    assert values[1] < 0.7 * values[0]
    assert (plain.candidate.name, guided.candidate.name) == ("rrr-0", "rrr-30")


def test_without_masks_rrr_is_absent_and_says_why(material):
    method = METHODS["rrr"](RrrParams())
    assert method.absence(method.candidates(())[0], material) is None
    bare = Material(material.model, material.train, material.val, material.cavs, MaskTable.empty())
    assert "mask" in method.absence(method.candidates(())[0], bare)
    elsewhere = MaskTable(np.array([999]), np.ones((1, 16, 16), bool))
    other = Material(material.model, material.train, material.val, material.cavs, elsewhere)
    assert method.absence(method.candidates(())[0], other)
