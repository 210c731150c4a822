import numpy as np
import pytest
import torch
from tests.mitigation.toys import same, state
from tests.reference import clarc as naive
from torch import nn

from xai_robustness.mitigation.base import METHODS, Candidate, MaskTable, Material
from xai_robustness.mitigation.finetune import finetune
from xai_robustness.mitigation.objectives import Step
from xai_robustness.mitigation.params import RrrParams
from xai_robustness.mitigation.penalties import CRITERIA, FORMS, overlap, random_signs
from xai_robustness.mitigation.rrr import MaskPenalty, moved
from xai_robustness.randomness import torch_rng


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


def explained_by(criterion, net, label, signs):
    """The explained quantity of one image (C,H,W), written with NumPy."""

    def of(image):
        logits = net(torch.from_numpy(image[None])).detach().numpy()[0]
        p = np.exp(logits) / np.exp(logits).sum()
        return {
            "loss": -np.log(p[label]),
            "target_logit": logits[label],
            "max_logit": logits.max(),
            "all_logits": logits.sum(),
            "all_logits_random": (signs * logits).sum(),
            "logprobs": np.log(p).mean(),
            "softmax": p[label],
        }[criterion]

    return of


@pytest.mark.parametrize("form", FORMS.names())
@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_every_target_and_form_equals_finite_differences(criterion, form):
    net = smooth_net()
    _, found = MaskPenalty(TABLE, criterion, seed=2, form=form)(net, STEP)
    signs = random_signs(torch.Size((2, 3)), torch_rng(2, "mitigation", "signs", 0, 0)).numpy()
    total = 0.0
    for sign, at, mask in ((signs[0], 0, MASKS[1]), (signs[1], 2, MASKS[0])):
        gradient = naive.gradient(explained_by(criterion, net, int(STEP.labels[at]), sign), IMAGES[at])
        heat = np.abs(gradient.sum(0))
        total += naive.cosine(heat, mask) if form == "cosine" else ((gradient * mask) ** 2).sum()
    assert float(found.detach()) == pytest.approx(total / 4, rel=1e-5)
    net.zero_grad()
    MaskPenalty(TABLE, criterion, seed=2, form=form)(net, STEP)[1].backward()
    assert all(torch.isfinite(weight.grad).all() for weight in net.parameters() if weight.grad is not None)
    assert net[0].weight.grad.abs().max() > 0


def test_masks_move_with_their_flipped_images():
    net = smooth_net()
    flips = torch.tensor([[True, False], [False, False], [True, True], [False, False]])
    images = STEP.inputs.clone()
    images[0], images[2] = images[0].flip(2), images[2].flip(1, 2)
    there = MaskTable(TABLE.sample_ids, np.stack([MASKS[0][::-1, ::-1], MASKS[1][:, ::-1]]))
    step = Step(images, STEP.labels, STEP.sample_ids, flips=flips)
    still = Step(images, STEP.labels, STEP.sample_ids)
    assert torch.equal(MaskPenalty(TABLE)(net, step)[1], MaskPenalty(there)(net, still)[1])
    assert not torch.equal(MaskPenalty(TABLE)(net, step)[1], MaskPenalty(TABLE)(net, still)[1])


def test_a_flipped_artifact_is_penalised_where_it_lies(material):
    """The mask of a flipped image covers the very pixels that carry the artifact."""
    train, seen = material.train, []

    class Spy(MaskPenalty):
        def __call__(self, model, step):
            at, masks = self.masks.find(step.sample_ids)
            regions = moved(torch.from_numpy(masks), step.flips[at])
            seen.append((step.inputs[at].amin(1)[regions] == 1).all() and bool(step.flips[at].any()))
            return super().__call__(model, step)

    params = RrrParams(augment=True, batch_size=48)
    list(finetune([Candidate("a", "rrr", None, 1.0)], material, params, Spy(material.masks)))
    assert seen == [True] and len(train) == 48


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
