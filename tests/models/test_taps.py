import pytest
import torch
from tests.models.tiny import images, tiny_model

from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import pool, tap
from xai_robustness.models.zoo import split
from xai_robustness.types import InputError


def test_tap_collects_outputs_and_leaves_no_hook() -> None:
    model, x = tiny_model(), images()
    with tap(model, ["layer1", "layer3.0.relu1"]) as outputs:
        model(x)
    assert torch.equal(outputs["layer1"], split(model, "layer1")[0](x))
    assert set(outputs) == {"layer1", "layer3.0.relu1"}
    assert not any(module._forward_hooks for module in model.modules())


def test_tap_removes_hooks_after_an_error() -> None:
    model = tiny_model()
    with pytest.raises(ZeroDivisionError), tap(model, ["layer1"]):
        raise ZeroDivisionError
    assert not model.layer1._forward_hooks


def test_unknown_layer() -> None:
    with pytest.raises(InputError, match="Got 'layer7' instead"), tap(tiny_model(), ["layer7"]):
        pass


def test_pooling() -> None:
    a = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])
    assert pool(a, "max").item() == 3
    assert pool(a, "mean").item() == 0.5
    assert pool(a, "sum").item() == 2
    assert torch.equal(pool(torch.ones(2, 3), "sum"), torch.ones(2, 3))
    assert pool(torch.rand(2, 3, 7), "mean").shape == (2, 3)
    with pytest.raises(InputError, match=r"must be one of max, mean, sum. Got 'min'"):
        pool(a, "min")


def test_borrow_gives_modes_and_gradients_back() -> None:
    model = tiny_model().train()
    model.bn1.eval()
    model.fc.weight.requires_grad_(False)
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    modes = [module.training for module in model.modules()]
    needs = [weight.requires_grad for weight in model.parameters()]
    with pytest.raises(ZeroDivisionError), borrow(model):
        assert not any(module.training for module in model.modules())
        assert not any(weight.requires_grad for weight in model.parameters())
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == needs
    assert model.conv1.weight.grad.sum() == model.conv1.weight.numel()
