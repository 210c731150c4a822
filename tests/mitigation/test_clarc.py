import copy

import numpy as np
import pytest
import torch
from tests.mitigation.toys import same, state
from tests.reference import clarc as naive
from torch import nn

from xai_robustness.mitigation.base import METHODS
from xai_robustness.mitigation.clarc import AugmentedLoss, GradientPenalty
from xai_robustness.mitigation.directions import directions_at
from xai_robustness.mitigation.objectives import Step
from xai_robustness.mitigation.params import AClarcParams, PClarcParams, ReactivePClarcParams, RrClarcParams
from xai_robustness.mitigation.projections import STAGE
from xai_robustness.models.taps import pool, tap
from xai_robustness.models.zoo import split


def corrected_by(name, params, material, layers=("relu", "block")):
    method = METHODS[name](params)
    return {c.candidate.name: c for c in method.correct(method.candidates(layers), material)}


def smooth_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()
    return net.eval()


def step_of(inputs, labels=(0, 1)):
    return Step(inputs, torch.tensor(labels), np.arange(len(labels)))


@pytest.mark.parametrize("aggregation", ["l2_mean", "l1", "cosine_mean"])
@pytest.mark.parametrize("criterion", ["target_logit", "logprobs", "all_logits"])
def test_penalty_equals_finite_differences_of_the_criterion(criterion, aggregation):
    net, rng = smooth_net(), np.random.default_rng(0)
    x, vector = rng.normal(size=(2, 3, 3, 3)), np.array([0.6, 0.0, 0.8])
    penalty = GradientPenalty(torch.from_numpy(vector), criterion, aggregation)
    logits, found = penalty(net, step_of(torch.from_numpy(x)))

    def explained(images):
        out = net(torch.from_numpy(images)).detach().numpy()
        if criterion == "target_logit":
            return out[0, 0] + out[1, 1]
        if criterion == "all_logits":
            return out.sum()
        return (out - np.log(np.exp(out).sum(1, keepdims=True))).mean(1).sum()

    wanted = naive.latent_penalty(naive.gradient(explained, x), vector, aggregation)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-6)
    assert torch.equal(logits, net(torch.from_numpy(x)))


def test_derivative_of_the_penalty_by_the_weights_equals_finite_differences():
    net, rng = smooth_net(), np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(2, 3, 3, 3)))
    penalty = GradientPenalty(torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64), "target_logit")
    weight = net[0].weight
    penalty(net, step_of(x))[1].backward()

    def value(weights):
        changed = copy.deepcopy(net)
        changed[0].weight.data = torch.from_numpy(weights)
        return float(penalty(changed, step_of(x))[1])

    wanted = naive.gradient(value, weight.detach().numpy().copy())
    np.testing.assert_allclose(weight.grad.numpy(), wanted, atol=1e-7)
    assert np.abs(wanted).max() > 1e-3


def test_penalty_repeats_its_signs_for_the_same_step_and_draws_others_for_another():
    net, x = smooth_net(), torch.randn(8, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    penalty = GradientPenalty(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), seed=4)
    values = [float(penalty(net, Step(x, torch.zeros(8).long(), np.arange(8), 0, n))[1]) for n in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_rr_clarc_changes_only_what_follows_the_layer(material):
    before = state(material.model)
    found = corrected_by("rr_clarc", RrClarcParams(layers=("relu",), lambdas=(1.0, 100.0)), material)
    assert same(before, state(material.model))
    assert set(found) == {"rr_clarc-relu-1", "rr_clarc-relu-100"}
    frozen = [key for key in before if key.startswith(("conv.", "bn."))]
    for corrected in found.values():
        after = state(corrected.model)
        assert all(torch.equal(before[key], after[key]) for key in frozen)
        assert not torch.equal(before["fc.weight"], after["fc.weight"])
        assert not torch.equal(before["block.0.weight"], after["block.0.weight"])
        running = [key for key in before if "running" in key or "num_batches" in key]
        assert all(torch.equal(before[key], after[key]) for key in running)
        assert not corrected.model.training and corrected.stopped is None and len(corrected.history) == 1
    a, b = (state(corrected.model) for corrected in found.values())
    assert not same(a, b)


def test_rr_clarc_makes_the_gradient_orthogonal(material):
    params = RrClarcParams(
        layers=("block",), lambdas=(0.0, 300.0), epochs=8, lr=0.005, criterion="all_logits", batch_size=16
    )
    found = corrected_by("rr_clarc", params, material)
    vector = torch.from_numpy(material.cavs.find("block", "signal").vector)

    def measure(model):
        prefix, tail = split(model, "block")
        inputs = prefix(material.train.tensor(slice(None))).detach()
        step = Step(inputs, torch.from_numpy(material.train.labels), material.train.sample_ids)
        return float(GradientPenalty(vector, "all_logits")(tail, step)[1].detach())

    plain, penalised = (measure(found[f"rr_clarc-block-{s}"].model) for s in ("0", "300"))
    assert penalised < 0.1 * min(plain, measure(material.model))


def test_strengths_in_lockstep_equal_strengths_alone(material):
    together = corrected_by("rr_clarc", RrClarcParams(layers=("relu",), lambdas=(1.0, 50.0), epochs=2), material)
    alone = corrected_by("rr_clarc", RrClarcParams(layers=("relu",), lambdas=(50.0,), epochs=2), material)
    assert same(state(together["rr_clarc-relu-50"].model), state(alone["rr_clarc-relu-50"].model))


def test_an_exploding_strength_is_stopped_and_the_others_go_on(material):
    params = RrClarcParams(layers=("relu",), lambdas=(1.0, 1e38), gradient_clip=1e30, lr=10.0)
    found = corrected_by("rr_clarc", params, material)
    broken, fine = found["rr_clarc-relu-1e38"], found["rr_clarc-relu-1"]
    assert broken.model is None and "epoch 1" in broken.stopped
    assert fine.model is not None or "epoch 1" in fine.stopped


def test_a_layer_without_weights_behind_it_is_reported(material, cavs):
    items = (*cavs, *(copy.copy(c) for c in ()))
    assert len(items) == len(cavs)
    method = METHODS["rr_clarc"](RrClarcParams(layers=("fc",)))
    assert "No CAV" in method.absence(method.candidates(())[0], material)


def scores_after(model, material):
    images = material.train.tensor(slice(None))
    with torch.no_grad(), tap(model, [STAGE if hasattr(model, STAGE) else f"block.{STAGE}"]) as outputs:
        model(images)
    return next(iter(outputs.values()))


def test_p_clarc_moves_the_pooled_score_to_the_clean_mean_and_equals_the_naive_form(material):
    found = corrected_by("p_clarc", PClarcParams(layers=("relu",)), material)
    cav = material.cavs.find("relu", "signal")
    model = found["p_clarc-relu"].model
    moved = scores_after(model, material)
    scores = pool(moved, "max").double().numpy() @ cav.vector.astype(float)
    np.testing.assert_allclose(scores, cav.mean_clean, atol=1e-5)
    prefix, _ = split(material.model, "relu")
    with torch.no_grad():
        activations = prefix(material.train.tensor(slice(None))).double().numpy()
    wanted = [naive.p_clarc(a, cav.vector.astype(float), cav.mean_clean) for a in activations]
    np.testing.assert_allclose(moved.numpy(), wanted, atol=1e-5)
    assert not hasattr(material.model, STAGE)


def test_reactive_p_clarc_leaves_samples_below_the_condition_untouched_to_the_bit(material):
    prefix, _ = split(material.model, "relu")
    images = material.train.tensor(slice(None))
    with torch.no_grad():
        activations = prefix(images)
        condition = material.cavs.find("relu", "svm")
        decisions = pool(activations, "max").numpy() @ condition.vector
        shifted = -float(np.median(decisions))
        object.__setattr__(condition, "intercept", shifted)
        model = corrected_by("reactive_p_clarc", ReactivePClarcParams(layers=("relu",)), material)[
            "reactive_p_clarc-relu"
        ].model
        untouched = decisions + shifted <= -1e-4
        assert 10 < untouched.sum() < 40
        moved = scores_after(model, material)
        assert torch.equal(moved[untouched], activations[untouched])
        assert not torch.equal(moved[~untouched], activations[~untouched])
        np.testing.assert_array_equal(model(images)[untouched].numpy(), material.model(images)[untouched].numpy())


def test_missing_concept_vectors_are_named(material):
    method = METHODS["reactive_p_clarc"](ReactivePClarcParams(layers=("relu", "conv")))
    relu, conv = method.candidates(())
    assert method.absence(relu, material) is None
    assert "'conv'" in method.absence(conv, material)
    other = METHODS["reactive_p_clarc"](ReactivePClarcParams(layers=("relu",), condition="ridge"))
    assert "'ridge'" in other.absence(other.candidates(())[0], material)


def test_disabled_methods_have_no_candidates():
    for name, params in (("rr_clarc", RrClarcParams), ("p_clarc", PClarcParams)):
        assert METHODS[name](params(enabled=False)).candidates(("relu",)) == []
        assert len(METHODS[name](params()).candidates(("relu",))) >= 1


def test_several_directions_are_averaged_and_full_ones_see_every_position(material):
    net, x = smooth_net(), torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = Step(x, torch.zeros(4).long(), np.arange(4))
    a, b = torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]], dtype=torch.float64)
    alone = [float(GradientPenalty(v, "all_logits", seed=4)(net, step)[1].detach()) for v in (a, b)]
    both = float(GradientPenalty(torch.stack([a, b]), "all_logits", seed=4)(net, step)[1].detach())
    assert both == pytest.approx(sum(alone) / 2)
    flat = torch.zeros(27, dtype=torch.float64)
    flat[:9] = 1 / 3
    full = float(GradientPenalty(flat, "all_logits", "l2_mean", 4, full=True)(net, step)[1].detach())
    axis = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    assert full == pytest.approx(9 * float(GradientPenalty(axis, "all_logits")(net, step)[1].detach()))


def test_the_full_direction_is_the_difference_of_the_flattened_means(labelled):
    found = directions_at("relu", labelled, PClarcParams(features="full"))
    rows = labelled.train.labels == 0
    with torch.no_grad():
        flat = split(labelled.model, "relu")[0](labelled.train.tensor(rows)).flatten(1).double().numpy()
    has = labelled.artifact[rows]
    difference = flat[has].mean(0) - flat[~has].mean(0)
    vector = difference / np.linalg.norm(difference)
    np.testing.assert_allclose(found.vectors[0], vector, atol=1e-6)
    np.testing.assert_allclose(float(found.mean_clean[0]), vector @ flat[~has].mean(0), rtol=1e-5)


def test_full_features_move_every_sample_to_the_clean_mean_and_nothing_else(labelled):
    (corrected,) = corrected_by("p_clarc", PClarcParams(features="full"), labelled, ("relu",)).values()
    found = directions_at("relu", labelled, PClarcParams(features="full"))
    moved = scores_after(corrected.model, labelled).flatten(1)
    torch.testing.assert_close((moved @ found.vectors[0]), found.mean_clean.expand(48), atol=1e-4, rtol=0)
    with torch.no_grad():
        before = split(labelled.model, "relu")[0](labelled.train.tensor(slice(None))).flatten(1)
    change = moved - before
    torch.testing.assert_close(change, (change @ found.vectors[0])[:, None] * found.vectors[0], atol=1e-4, rtol=0)


def test_several_vectors_are_projected_out_together(material):
    (corrected,) = corrected_by("p_clarc", PClarcParams(also=("svm",)), material, ("relu",)).values()
    pooled = pool(scores_after(corrected.model, material), "max").numpy()
    for kind in ("signal", "svm"):
        cav = material.cavs.find("relu", kind)
        np.testing.assert_allclose(pooled @ cav.vector, cav.mean_clean, atol=1e-4)


def test_a_clarc_without_strength_is_plain_fine_tuning_and_leaves_no_stage(material):
    params = AClarcParams(enabled=True, lambdas=(0.0, 1.0), batch_size=16)
    none, moved = corrected_by("a_clarc", params, material, ("relu",)).values()
    plain = corrected_by("rr_clarc", RrClarcParams(lambdas=(0.0,), batch_size=16), material, ("relu",))
    assert same(state(none.model), state(plain["rr_clarc-relu-0"].model))
    assert not same(state(none.model), state(moved.model)) and state(moved.model).keys() == state(material.model).keys()
    assert moved.history[0]["train_penalty"] > 0 and none.history[0]["train_penalty"] == 0


def test_a_clarc_moves_the_share_it_is_asked_to_the_artifact_mean(material):
    cav = material.cavs.find("relu", "signal")
    vectors, targets = torch.from_numpy(cav.vector)[None], torch.tensor([cav.mean_artifact])
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    with torch.no_grad():
        inputs = split(material.model, "relu")[0](material.train.tensor(slice(None)))
    step = Step(inputs, torch.from_numpy(material.train.labels), material.train.sample_ids)
    strand = type("Strand", (), {"trained": Spy(), "candidate": type("C", (), {"strength": 1.0})()})()
    for share in (1.0, 0.5):
        AugmentedLoss(vectors, targets, "max", share, 3)(strand, step, lambda logits, labels: logits.sum())
    scores = pool(seen[0], "max") @ vectors[0]
    torch.testing.assert_close(scores, targets.expand(48), atol=1e-5, rtol=0)
    still = (seen[1] == inputs).flatten(1).all(1)
    assert 10 < still.sum() < 40
    np.testing.assert_allclose(seen[1][~still], seen[0][~still])
