import pytest
import torch
import torchvision
from captum.attr import DeepLift, GuidedBackprop
from tests.models.tiny import disturb, images
from torch import Tensor, nn

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.models.rewrite import explicit, from_module
from xai_robustness.models.zoo import inspected_layers, layer_names, split
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 2])


def theirs(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "densenet":
        small = {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 8, "num_classes": 3}
        model = torchvision.models.DenseNet(**small).eval()
    elif name == "resnet":
        model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=3).eval()
    else:
        features = torchvision.models.vgg.make_layers([8, "M", 12, "M"], batch_norm=True)
        model = torchvision.models.VGG(features, num_classes=3, init_weights=False).eval()
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier = nn.Sequential(nn.Linear(12, 6), nn.ReLU(True), nn.Dropout(), nn.Linear(6, 3))
    disturb(model)
    return model.eval()


@pytest.mark.parametrize("name", ["resnet", "vgg", "densenet"])
def test_users_networks_are_conserved_and_left_alone(name: str) -> None:
    model, x = theirs(name), images(2, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    in_place = [getattr(module, "inplace", None) for module in model.modules()]
    ours = from_module(model)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(ours(x), expected)
        for layer in layer_names(ours):
            prefix, suffix = split(ours, layer)
            torch.testing.assert_close(suffix(prefix(x)), expected)
    with Lrp(ours) as lrp:
        found = lrp.run(x, TARGETS, layer_names(ours)[:3])
    torch.testing.assert_close(found.logits, expected, rtol=1e-3, atol=1e-4)
    assert max(found.lost.values()) < 1e-4, found.lost
    assert set(inspected_layers(ours)) <= set(layer_names(ours))
    assert found.attribution.abs().sum() > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [getattr(module, "inplace", None) for module in model.modules()] == in_place


@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_each_module_is_used_once_and_captum_agrees(name: str) -> None:
    model, x = explicit(theirs(name)), images(2, 32)
    calls = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    assert len(calls) == len(set(calls))
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    found = DeepLift(model).attribute(x, torch.zeros_like(x), target=TARGETS)
    with torch.no_grad():
        logits, zero = model(x), model(torch.zeros_like(x))
    wanted = (logits - zero)[torch.arange(2), TARGETS]
    torch.testing.assert_close(found.flatten(1).sum(1), wanted, rtol=1e-2, atol=1e-3)  # DeepLIFT is complete
    assert GuidedBackprop(model).attribute(x, target=TARGETS).shape == x.shape


def test_parameter_names_stay() -> None:
    model = theirs("resnet")
    assert set(explicit(model).state_dict()) == set(model.state_dict())


def test_a_normalisation_is_put_in_front() -> None:
    model, x = theirs("vgg"), images(2, 32)
    ours = from_module(model, [0.4] * 3, [0.3] * 3)
    torch.testing.assert_close(ours(x), model((x - 0.4) / 0.3))
    with pytest.raises(InputError, match="given together"):
        from_module(model, [0.4] * 3)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(x))


def test_what_cannot_be_rewritten_is_refused() -> None:
    with pytest.raises(InputError, match="does not depend on values"):
        explicit(Branching())
    with pytest.raises(InputError, match="'fc' used again"):
        explicit(Shared())


class Sigmoids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.fc = nn.Flatten(1), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.fc(self.flatten(x)))


def test_unknown_operations_stay_and_lrp_names_them() -> None:
    model = from_module(Sigmoids())
    with Lrp(model) as lrp, pytest.raises(InputError, match="Got Sin in the stage 'sin'"):
        lrp.run(images(2, 2), TARGETS)
