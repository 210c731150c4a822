import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.mitigation.toys import image_set, same, state

from xai_robustness.mitigation.base import Candidate, Material
from xai_robustness.mitigation.clarc import GradientPenalty
from xai_robustness.mitigation.finetune import collapsed, finetune
from xai_robustness.mitigation.objectives import Penalty
from xai_robustness.mitigation.params import FineTuningParams
from xai_robustness.models.zoo import split
from xai_robustness.randomness import torch_rng


def naive_finetuning(model, train, layer, params, seed):
    """Plain fine-tuning: no lockstep, no prefix, no penalty; weights up to the layer have no gradient."""
    import copy

    model = copy.deepcopy(model).eval()
    weights = list(split(model, layer)[1].parameters()) if layer else list(model.parameters())
    optimizer = torch.optim.SGD(weights, params.lr, params.momentum, fused=True)
    counts = np.bincount(train.labels, minlength=3)
    class_weights = torch.tensor(counts.max() / counts, dtype=torch.float32)
    for epoch in range(params.epochs):
        order = torch.randperm(len(train), generator=torch_rng(seed, "mitigation", "shuffle", epoch)).numpy()
        for start in range(0, len(order), params.batch_size):
            rows = order[start : start + params.batch_size]
            logits = model(train.tensor(rows))
            loss = F.cross_entropy(logits, torch.from_numpy(train.labels[rows]), weight=class_weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("layer", [None, "relu"])
def test_strength_zero_is_exactly_plain_finetuning(material, layer):
    params = FineTuningParams(epochs=2, batch_size=16, lr=0.05, optimizer="sgd")
    penalty = GradientPenalty(torch.eye(1, 6)[0])
    (found,) = finetune([Candidate("zero", "rr_clarc", layer, 0.0)], material, params, penalty)
    wanted = naive_finetuning(material.model, material.train, layer, params, material.seed)
    assert same(state(found.model), state(wanted))
    assert not same(state(found.model), state(material.model))
    assert [record["epoch"] for record in found.history] == [1, 2]
    assert found.history[1]["train_loss"] < found.history[0]["train_loss"]
    assert found.history[0]["train_penalty"] == 0


class WeightPenalty(Penalty):
    def __call__(self, model, step):
        return model(step.inputs), model.fc.weight.square().sum()


def test_strength_scales_the_penalty(material):
    params = FineTuningParams(epochs=3, batch_size=16, lr=0.05, optimizer="sgd")
    candidates = [Candidate(str(s), "toy", "relu", float(s)) for s in (0, 1, 10)]
    norms = [float(c.model.fc.weight.norm()) for c in finetune(candidates, material, params, WeightPenalty())]
    assert norms[0] > norms[1] > norms[2]


def test_the_given_model_and_the_global_random_state_are_untouched(material):
    before, random = state(material.model), torch.random.get_rng_state()
    grads = [weight.grad for weight in material.model.parameters()]
    list(finetune([Candidate("a", "vanilla")], material, FineTuningParams(), None))
    assert same(before, state(material.model)) and grads == [w.grad for w in material.model.parameters()]
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(weight.requires_grad for weight in material.model.parameters())


class BrokenPenalty(Penalty):
    def __init__(self, at):
        self.at = at

    def __call__(self, model, step):
        logits = model(step.inputs)
        return logits, logits.sum() * (float("nan") if step.number == self.at else 0.0)


def test_a_loss_that_is_not_finite_stops_one_candidate_alone(material):
    params = FineTuningParams(epochs=2, batch_size=16)
    candidates = [Candidate("plain", "toy", "relu", 0.0), Candidate("broken", "toy", "relu", 1.0)]
    plain, broken = finetune(candidates, material, params, BrokenPenalty(at=1))
    assert plain.stopped is None and plain.model is not None
    assert broken.model is None and broken.history == ()
    assert broken.stopped == "the loss became nan in epoch 1, step 2"


def test_weights_that_overflow_are_noticed(material):
    params = FineTuningParams(epochs=1, batch_size=64, lr=1e38, gradient_clip=1e30)
    (found,) = finetune([Candidate("a", "vanilla")], material, params, None)
    assert found.model is None and found.stopped


def test_collapse_is_recorded(material):
    params = FineTuningParams(epochs=1, batch_size=16, lr=0.001)
    with torch.no_grad():
        material.model.fc.bias.copy_(torch.tensor([1e6, 0.0, 0.0]))
    (found,) = finetune([Candidate("a", "vanilla")], material, params, None)
    assert found.collapsed and found.stopped is None


def test_collapsed():
    assert collapsed(np.array([[0.0, 1.0], [3.0, 4.0]]))
    assert not collapsed(np.array([[0.0, 1.0], [5.0, 4.0]]))
    assert collapsed(np.array([[1.0, -1.0], [2.0, -3.0]]), multi_label=True)
    assert not collapsed(np.array([[1.0, -1.0], [2.0, 3.0]]), multi_label=True)


def test_multi_label_tasks(model, cavs, masks):
    train, val = image_set(24, 0, "multi-label"), image_set(12, 1, "multi-label", first_id=100)
    material = Material(model, train, val, cavs, masks)
    penalty = GradientPenalty(torch.eye(1, 6)[0], "target_logit")
    (found,) = finetune([Candidate("a", "rr_clarc", "relu", 1.0)], material, FineTuningParams(), penalty)
    assert found.stopped is None and np.isfinite(found.history[0]["val_loss"])


def test_a_layer_with_no_weights_behind_it_is_stopped(material):
    (found,) = finetune([Candidate("a", "rr_clarc", "fc", 1.0)], material, FineTuningParams(), None)
    assert found.stopped == "there are no weights to train after layer 'fc'"


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_lower_the_loss(material, optimizer):
    params = FineTuningParams(epochs=4, batch_size=16, lr=0.01, optimizer=optimizer)
    (found,) = finetune([Candidate("a", "vanilla")], material, params, None)
    assert found.history[-1]["train_loss"] < found.history[0]["train_loss"]
