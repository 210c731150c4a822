import pytest
import torch
from tests.models.tiny import disturb, images
from torch import nn

from xai_robustness.attribution.base import target_gradient
from xai_robustness.attribution.lean import lean
from xai_robustness.models.modes import borrow
from xai_robustness.models.zoo import ModelParams, build


def made(name: str) -> nn.Sequential:
    model = build(ModelParams(name=name), 3, (3, 28, 28), [0.5] * 3, [0.25] * 3, 0).eval()
    disturb(model)
    return model


def changed(model: nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg11_bn"])
def test_it_is_the_same_function_and_comes_back(name: str) -> None:
    model, x, targets = made(name).double(), images(4, 28).double(), torch.tensor([0, 1, 2, 0])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with borrow(model):
        expected = target_gradient(model, x, targets)
        with lean(model):
            found = target_gradient(model, x, targets)
            assert changed(model) > 5
        again = target_gradient(model, x, targets)
    assert torch.equal(again, expected) and not torch.equal(found, expected)
    assert (found - expected).abs().max() < 1e-10 * expected.abs().max()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not changed(model)


def test_what_is_left_alone() -> None:
    model = made("resnet18")
    with lean(model):
        assert not changed(model)  # weights are in the graph
    model.requires_grad_(False)
    handle = model.conv1.register_forward_hook(lambda *_: None)
    with lean(model):
        assert not changed(model)
    handle.remove()
    with torch.autocast("cpu"), lean(model):
        assert not changed(model)
    with lean(model.train()):
        assert not changed(model)
    with lean(model.eval()):
        assert changed(model)


def test_a_batch_norm_without_weights_stays_itself() -> None:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.ReLU(inplace=True), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(16, 3)).eval().requires_grad_(False)
    x = torch.rand(2, 3, 2, 2)
    expected = model(x)
    with lean(model):
        torch.testing.assert_close(model(x), expected)
