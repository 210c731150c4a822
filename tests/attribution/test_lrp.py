import gc
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from tests.models.tiny import disturb, images, no_biases, tiny_model
from tests.reference import lrp as naive
from torch import Tensor, nn
from torch.nn.functional import normalize
from zennit.composites import (
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
)
from zennit.core import Hook
from zennit.rules import Pass as ZennitPass

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.composites import COMPOSITES
from xai_robustness.attribution.conservation import Account
from xai_robustness.attribution.lrp import ConservationError, Lrp
from xai_robustness.models.canonizers import canonizers
from xai_robustness.models.insertions import Projection
from xai_robustness.models.layers import Add, Normalize
from xai_robustness.models.zoo import ModelParams, build, insert_after, inspected_layers, layer_names, split
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


ZENNIT = {
    "epsilon_plus": EpsilonPlus,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": EpsilonAlpha2Beta1Flat,
    "epsilon_gamma_box": EpsilonGammaBox,
}
MEAN, STD = 0.4, 0.3  # of every model here


def by_zennit(model: nn.Sequential, x: Tensor, composite: str) -> Tensor:
    rules = [(Normalize, ZennitPass()), (Add, ZennitSum())]
    box = {"low": -MEAN / STD, "high": (1 - MEAN) / STD} if composite == "epsilon_gamma_box" else {}
    with ZENNIT[composite](layer_map=rules, canonizers=canonizers(model), **box).context(model) as modified:
        x = x.clone().requires_grad_()
        logits = modified(x)
        initial = torch.zeros_like(logits).scatter(1, TARGETS[:, None], logits.detach().gather(1, TARGETS[:, None]))
        return torch.autograd.grad(logits, x, initial)[0]


def zoo_model(name: str) -> nn.Sequential:
    if name == "tiny":
        return tiny_model()
    model = build(ModelParams(name=name), 3, (3, 28, 28), [MEAN] * 3, [STD] * 3, 0).eval()
    torch.manual_seed(0)
    disturb(model)
    return model


@pytest.mark.parametrize("composite", ZENNIT)
@pytest.mark.parametrize("name", ["tiny", "vgg11_bn"])
def test_equals_zennit_in_double_precision(name: str, composite: str) -> None:
    model, x = zoo_model(name).double(), images(4, 28).double()
    expected = by_zennit(model, x, composite)
    with Lrp(model, composite) as lrp:
        found = lrp.run(x, TARGETS).attribution
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg11_bn", "resnet50"])
def test_equals_zennit_in_single_precision(name: str) -> None:
    model, x = zoo_model(name), images(4, 28)
    expected = by_zennit(model, x, "epsilon_plus_flat")
    with Lrp(model) as lrp:
        found = lrp.run(x, TARGETS).attribution
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


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


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "vgg16_bn", "densenet121"])
def test_every_stage_of_every_architecture_conserves(name: str) -> None:
    model, x, targets = zoo_model(name), images(2, 28), torch.tensor([0, 2])
    layers = inspected_layers(model)
    with torch.no_grad():
        logits = model(x)
    with Lrp(model) as lrp:
        found = lrp.run(x, targets, layers)
    torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=1e-4)
    assert set(layers) < set(found.lost)
    assert max(found.lost.values()) < 1e-4, found.lost
    wanted = found.logits[torch.arange(2), targets]
    for layer in layers:
        relevance = found.relevances[layer].flatten(1)
        size = torch.maximum(relevance.abs().sum(1), wanted.abs())
        assert ((relevance.sum(1) + found.absorbed[layer] - wanted).abs() <= 1e-4 * size).all(), layer
        assert found.relevances[layer].shape == found.activations[layer].shape


@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_composite_conserves(composite: str) -> None:
    with Lrp(tiny_model().double(), composite) as lrp:
        found = lrp.run(images().double(), TARGETS)
    assert max(found.lost.values()) < 1e-9, found.lost


def test_masks_let_a_part_of_the_relevance_through() -> None:
    model, x = tiny_model(), images()
    with Lrp(model) as lrp:
        whole = lrp.run(x, TARGETS, ["layer2"])
        kept = lrp.run(x, TARGETS, ["layer2"], masks={"layer2": lambda r: r * (torch.arange(6) < 2)[:, None, None]})
        rest = lrp.run(x, TARGETS, ["layer2"], masks={"layer2": lambda r: r * (torch.arange(6) >= 2)[:, None, None]})
    assert kept.relevances["layer2"][:, 2:].abs().max() == 0
    torch.testing.assert_close(kept.attribution + rest.attribution, whole.attribution)


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
    model = insert_after(tiny_model(), "relu", Windows(), "windows")
    with Lrp(model) as lrp:
        assert lrp.from_layer(images(), "layer1", torch.zeros_like).abs().max() == 0
        with pytest.raises(ConservationError, match="before the stage 'windows'"):
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


def accounts() -> int:
    gc.collect()
    return sum(isinstance(thing, Account) for thing in gc.get_objects())


def test_a_pass_leaves_nothing_in_memory() -> None:
    model, before = tiny_model(), accounts()
    with Lrp(model) as lrp:
        lrp.run(images(), torch.zeros(len(images()), dtype=torch.int64), layer_names(model)[1:3])
        lrp.from_layer(images(), layer_names(model)[2], torch.ones_like)
    assert accounts() == before


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
    """Hides an operation between its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.inner(x)


class Windows(nn.Module):
    """Loses relevance by an operation that only moves it: half of the channels come from a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return torch.cat([self.inner(x)[:, :half], torch.ones_like(x[:, half:]).detach()], 1)


def test_hidden_operations_are_refused_by_stage_and_name() -> None:
    model = insert_after(tiny_model(), "layer2", Doubled(), "doubled")
    with Lrp(model) as lrp, pytest.raises(ConservationError, match="Got Mul in the stage 'doubled' instead"):
        lrp.run(images(), TARGETS)
    with Lrp(model) as lrp, pytest.raises(ConservationError, match="Got Mul in the stage 'doubled'"):
        lrp.from_layer(images(), "layer3", torch.clone)


def test_a_loss_is_measured_right_where_it_happens() -> None:
    model = insert_after(tiny_model(), "layer2", Windows(), "windows")
    with Lrp(model) as lrp, pytest.raises(ConservationError, match=r"before the stage 'windows' must .* Got \d+"):
        lrp.run(images(), TARGETS)
    with Lrp(model, tolerance=10.0) as lrp:
        lost = lrp.run(images(), TARGETS).lost
    assert lost["windows"] > 0.01
    assert max(share for name, share in lost.items() if name != "windows") < 1e-5


class SumInForward(nn.Module):
    """A residual block whose sum is made in `forward`, as torchvision's are."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def test_residual_sums_built_in_forward_are_refused() -> None:
    torch.manual_seed(0)
    block = SumInForward(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()))
    model = nn.Sequential(OrderedDict(block=block, flatten=nn.Flatten(1), fc=nn.Linear(3 * 16, 2)))
    with Lrp(model) as lrp, pytest.raises(ConservationError, match="Got Add in the stage 'block'"):
        lrp.run(images(2, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vit_b_16"])
def test_torchvisions_own_networks_are_refused(name: str) -> None:
    model = nn.Sequential(OrderedDict(net=getattr(torchvision.models, name)(num_classes=2)))
    with pytest.raises(InputError, match="(made of|compute with) modules"), Lrp(model) as lrp:
        lrp.run(images(1, 32), torch.tensor([1]))


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
