from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.models.tiny import disturb, images, no_biases, tiny_model
from tests.reference import lrp as naive
from torch import Tensor, nn
from torch.nn.functional import normalize
from zennit.composites import EpsilonPlus, EpsilonPlusFlat
from zennit.core import Hook
from zennit.rules import Pass as ZennitPass

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.lrp import ConservationError, Lrp
from xai_robustness.models.canonizers import canonizers
from xai_robustness.models.insertions import Projection
from xai_robustness.models.layers import Add, Normalize
from xai_robustness.models.zoo import ModelParams, build, insert_after, inspected_layers, split
from xai_robustness.types import InputError

LAYERS = ("layer1", "layer2", "layer3", "layer4")
TARGETS = torch.tensor([0, 1, 2, 0])


def dense_model() -> nn.Sequential:
    torch.manual_seed(3)
    stages = OrderedDict(flatten=nn.Flatten(1), fc1=nn.Linear(12, 7), relu=nn.ReLU(), fc2=nn.Linear(7, 3))
    model = nn.Sequential(stages).eval()
    disturb(model)
    return model


def pooled_model() -> nn.Sequential:
    torch.manual_seed(4)
    features = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    more = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.AvgPool2d(2))
    stages = OrderedDict(features=features, more=more, flatten=nn.Flatten(1), drop=nn.Dropout(), fc=nn.Linear(5, 3))
    model = nn.Sequential(stages).eval()
    disturb(model)
    return model


def corrected_model(reactive: bool, pooling: str = "max", layer: str = "layer1") -> nn.Sequential:
    model = tiny_model()
    k = split(model, layer)[0](images()).shape[1]
    v = normalize(torch.randn(k, generator=torch.Generator().manual_seed(2)), dim=0)
    condition = normalize(torch.randn(k, generator=torch.Generator().manual_seed(3)), dim=0) if reactive else None
    return insert_after(model, layer, Projection(v, 0.2, condition, 0.05, pooling), "projection")


CASES = {
    "dense": (dense_model, (3, 2, 2)),
    "pooled": (pooled_model, (2, 8, 8)),
    "residual": (tiny_model, (3, 8, 8)),
    "corrected": (lambda: corrected_model(False), (3, 8, 8)),
    "corrected, mean": (lambda: corrected_model(False, "mean", "layer2"), (3, 8, 8)),
    "corrected, reactive": (lambda: corrected_model(True), (3, 8, 8)),
    "corrected head": (lambda: corrected_model(False, "max", "flatten"), (3, 8, 8)),
}


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_plus"])
@pytest.mark.parametrize("case", CASES)
def test_equals_naive_matrices(case: str, composite: str) -> None:
    make, shape = CASES[case]
    model = make()
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    if case == "pooled":
        x -= 0.5  # negative inputs take the other half of ZPlus
    stages = [name for name, _ in model.named_children()]
    with Lrp(model.double(), composite) as lrp:
        found = lrp.run(x.double(), TARGETS, stages)
    for i in range(4):
        expected = naive.explain(model, x[i], int(TARGETS[i]), composite == "epsilon_plus_flat")
        np.testing.assert_allclose(found.attribution[i].numpy(), expected[0], rtol=1e-6, atol=1e-9)
        for stage, relevance in zip(stages, expected[1:]):
            np.testing.assert_allclose(found.relevances[stage][i].numpy(), relevance, rtol=1e-6, atol=1e-9)


class ZennitSum(Hook):
    """The rule of a residual sum, written for zennit: proportional to both terms."""

    def forward(self, module: nn.Module, input: tuple, output: Tensor) -> None:
        self.stored_tensors["terms"], self.stored_tensors["sum"] = input, output

    def backward(self, module: nn.Module, grad_input: tuple, grad_output: tuple) -> tuple:
        total = self.stored_tensors["sum"]
        share = grad_output[0] / (total + 1e-6 * torch.where(total < 0, -1.0, 1.0))
        return tuple(term * share for term in self.stored_tensors["terms"])


def by_zennit(model: nn.Sequential, x: Tensor, kind: type) -> Tensor:
    rules = [(Normalize, ZennitPass()), (Add, ZennitSum())]
    composite = kind(layer_map=rules, canonizers=canonizers(model))
    with composite.context(model) as modified:
        x = x.clone().requires_grad_()
        logits = modified(x)
        initial = torch.zeros_like(logits).scatter(1, TARGETS[:, None], logits.detach().gather(1, TARGETS[:, None]))
        return torch.autograd.grad(logits, x, initial)[0]


@pytest.mark.parametrize(("composite", "kind"), [("epsilon_plus_flat", EpsilonPlusFlat), ("epsilon_plus", EpsilonPlus)])
@pytest.mark.parametrize("name", ["tiny", "resnet18", "vgg11_bn", "densenet121"])
def test_equals_zennit(name: str, composite: str, kind: type) -> None:
    model = tiny_model() if name == "tiny" else build(ModelParams(name=name), 3, (3, 28, 28), [0.4] * 3, [0.3] * 3, 0)
    if name != "tiny":
        torch.manual_seed(0)
        disturb(model.eval())
    x = images(4, 28)
    expected = by_zennit(model, x, kind)
    with Lrp(model, composite) as lrp:
        found = lrp.run(x, TARGETS).attribution
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("make", [pooled_model, tiny_model])
def test_bias_free_network_conserves_in_every_layer(make: Callable[[], nn.Sequential]) -> None:
    model = make().double()
    no_biases(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= 3  # the stabilizer's share falls with the size of activations
    x = images(4, 8, channels=2 if make is pooled_model else 3).double()
    layers = [name for name, _ in model.named_children()]
    with Lrp(model) as lrp:
        found = lrp.run(x, TARGETS, layers)
    logits = found.logits.gather(1, TARGETS[:, None])[:, 0]
    for layer, relevance in found.relevances.items():
        size = relevance.flatten(1).abs().sum(1)
        kept = relevance.flatten(1).sum(1)
        assert ((kept + found.absorbed[layer] - logits).abs() < 1e-4 * size).all(), layer
        if make is pooled_model:  # residual sums may feed outputs that nothing positive reached
            assert ((kept - logits).abs() < 1e-4 * size).all(), layer


def test_epsilon_conserves_to_1e_6() -> None:
    model = dense_model().double()
    no_biases(model)
    x = torch.rand(4, 3, 2, 2).double() + 0.1
    with Lrp(model, "epsilon_plus") as lrp:
        found = lrp.run(x, TARGETS)
    logits = found.logits.gather(1, TARGETS[:, None])[:, 0]
    lost = (found.attribution.flatten(1).sum(1) - logits).abs()
    assert (lost < 1e-5).all()  # each of two layers loses at most its stabilizer's share
    assert torch.allclose(found.attribution.flatten(1).sum(1), logits, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", "vgg11", "vgg16", "vgg11_bn", "vgg16_bn", "densenet121"]
)
def test_relevance_and_what_biases_took_sum_to_the_logit(name: str) -> None:
    model = build(ModelParams(name=name), 3, (3, 28, 28), [0.4] * 3, [0.3] * 3, 0).eval()
    torch.manual_seed(1)
    disturb(model)
    layers = inspected_layers(model)
    x = images(2, 28)
    with torch.no_grad():
        logits = model(x)
    with Lrp(model) as lrp:
        found = lrp.run(x, torch.tensor([0, 2]), layers)
    torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=1e-4)
    wanted = found.logits[torch.arange(2), torch.tensor([0, 2])]
    for layer in layers:
        kept = found.relevances[layer].flatten(1).sum(1) + found.absorbed[layer]
        lost = (kept - wanted).abs().sum() / found.relevances[layer].abs().sum()
        assert lost < 2e-3, (layer, float(lost))
        assert found.relevances[layer].shape == found.activations[layer].shape


@pytest.mark.parametrize("layer", LAYERS)
def test_one_pass_agrees_with_a_start_at_the_layer(layer: str) -> None:
    model, x = tiny_model(), images()
    with Lrp(model) as lrp:
        found = lrp.run(x, TARGETS, LAYERS)
        again = lrp.from_layer(x, layer, lambda activation: found.relevances[layer])
        torch.testing.assert_close(again, found.attribution)
        prefix, _ = split(model, layer)
    torch.testing.assert_close(prefix(x), found.activations[layer])


def test_from_layer_is_linear_in_its_relevance() -> None:
    model, x = tiny_model(), images()
    with Lrp(model) as lrp:
        one = lrp.from_layer(x, "layer2", lambda a: a)
        twice = lrp.from_layer(x, "layer2", lambda a: 2 * a)
    torch.testing.assert_close(twice, 2 * one)


def test_from_layer_without_relevance_gives_none_and_checks_what_it_gives() -> None:
    model = insert_after(tiny_model(), "relu", Doubled(), "doubled")
    no_biases(model)
    with Lrp(model) as lrp:
        assert lrp.from_layer(images(), "layer1", torch.zeros_like).abs().max() == 0
        with pytest.raises(ConservationError, match="The relevance of 'input'"):
            lrp.from_layer(images(), "layer1", torch.clone)


def test_targets_may_depend_on_the_logits() -> None:
    model, x = tiny_model(), images()
    with Lrp(model) as lrp:
        found = lrp.run(x, lambda logits: logits.argmax(1))
        expected = lrp.run(x, found.logits.argmax(1))
    assert torch.equal(found.attribution, expected.attribution)


def test_samples_do_not_influence_each_other() -> None:
    model, x = tiny_model(), images()
    with Lrp(model) as lrp:
        together = lrp.run(x, TARGETS, LAYERS)
        alone = lrp.run(x[2:3], TARGETS[2:3], LAYERS)
    torch.testing.assert_close(alone.attribution[0], together.attribution[2])
    torch.testing.assert_close(alone.relevances["layer2"][0], together.relevances["layer2"][2])


@pytest.mark.parametrize("fails", [False, True])
def test_model_comes_back_as_it_was(fails: bool) -> None:
    model, x = tiny_model().train(), images()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = [(m.training, dict(vars(m)).keys(), len(m._forward_hooks)) for m in model.modules()]
    parameters = [(name, id(p), p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    try:
        with Lrp(model) as lrp:
            lrp.run(x, TARGETS, LAYERS)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert [(m.training, dict(vars(m)).keys(), len(m._forward_hooks)) for m in model.modules()] == before
    assert [(n, id(p), p.requires_grad, p.grad is None) for n, p in model.named_parameters()] == parameters
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.conv1.weight.grad.sum() == model.conv1.weight.numel()


class Doubled(nn.Module):
    """Hides an operation from the rules: its child is one that gets the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.inner(x)


def test_hidden_operations_are_named_by_the_layer_that_lost() -> None:
    model = insert_after(tiny_model(), "layer2", Doubled(), "doubled")
    no_biases(model)
    with Lrp(model) as lrp, pytest.raises(ConservationError, match=r"The relevance of 'layer2' must .* Got \d+"):
        lrp.run(images(), TARGETS, ["layer3", "layer2"])
    with Lrp(model, tolerance=10.0) as lrp:
        found = lrp.run(images(), TARGETS, ["doubled", "layer2"])
    torch.testing.assert_close(found.relevances["layer2"], 2 * found.relevances["doubled"])


def test_a_module_without_a_rule_is_refused() -> None:
    model = insert_after(tiny_model(), "layer2", nn.Tanh(), "tanh")
    training = [m.training for m in model.modules()]
    with pytest.raises(InputError, match="Got Tanh at 'tanh' instead"), Lrp(model):
        pass
    assert [m.training for m in model.modules()] == training
    assert not any("forward" in vars(m) for m in model.modules())


def test_bad_calls() -> None:
    with pytest.raises(InputError, match="Unknown composite 'gamma'"):
        Lrp(tiny_model(), "gamma")
    with Lrp(tiny_model()) as lrp:
        with pytest.raises(InputError, match="Unknown layer 'layer7'"):
            lrp.run(images(), TARGETS, ["layer7"])
        with pytest.raises(InputError, match=r"must be in 0\.\.2"):
            lrp.run(images(), TARGETS + 1)
        with pytest.raises(InputError, match="one int64 class a sample"):
            lrp.run(images(), TARGETS[:2])


def test_as_an_attributor() -> None:
    model, x = tiny_model(), images()
    with Lrp(model) as lrp:
        expected = lrp.run(x, TARGETS).attribution
    found = ATTRIBUTORS.create("lrp", model, batch_size=3)(x, TARGETS)
    torch.testing.assert_close(found, expected)
