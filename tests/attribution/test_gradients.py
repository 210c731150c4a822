import captum.attr
import pytest
import torch
from tests.models.tiny import images, tiny_model

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 1, 2, 0, 1])


def test_saliency_and_input_x_gradient_equal_captum() -> None:
    model, x = tiny_model(), images(5)
    expected = captum.attr.Saliency(model).attribute(x.clone().requires_grad_(), target=TARGETS)
    torch.testing.assert_close(ATTRIBUTORS.create("saliency", model, batch_size=2)(x, TARGETS), expected)
    expected = captum.attr.InputXGradient(model).attribute(x.clone().requires_grad_(), target=TARGETS)
    torch.testing.assert_close(ATTRIBUTORS.create("input_x_gradient", model)(x, TARGETS), expected.detach())


def test_integrated_gradients_are_complete() -> None:
    model, x = tiny_model(), images(5)
    found = ATTRIBUTORS.create("integrated_gradients", model, n_steps=300)(x, TARGETS)
    rows = torch.arange(5)
    with torch.no_grad():
        gain = model(x)[rows, TARGETS] - model(torch.zeros_like(x))[rows, TARGETS]
    torch.testing.assert_close(found.flatten(1).sum(1), gain, rtol=0.02, atol=0.02)


def test_integrated_gradients_by_hand() -> None:
    model, x = tiny_model().double(), images(3).double()
    targets = TARGETS[:3]
    nodes, weights = torch.tensor([0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5]).double(), (0.5, 0.5)  # Gauss-Legendre
    total = torch.zeros_like(x)
    for node, weight in zip(nodes, weights):
        point = (node * x).requires_grad_()
        model(point).gather(1, targets[:, None]).sum().backward()
        total += weight * point.grad
    found = ATTRIBUTORS.create("integrated_gradients", model, n_steps=2)(x, targets)
    torch.testing.assert_close(found, x * total)


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_every_method_keeps_its_promises(name: str) -> None:
    model, x = tiny_model().train(), images(5)
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    given = x.clone()
    found = ATTRIBUTORS.create(name, model)(x, TARGETS)
    assert found.shape in ((5, 3, 12, 12), (5, 1, 12, 12))
    assert torch.isfinite(found).all() and found.abs().max() > 0 and not found.requires_grad
    assert model.training and model.layer1.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.conv1.weight.grad.sum() == model.conv1.weight.numel() and model.fc.weight.grad is None
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(x, given) and not x.requires_grad
    again = ATTRIBUTORS.create(name, model, batch_size=2)(x, TARGETS)
    torch.testing.assert_close(again, found, rtol=1e-4, atol=1e-6)
    other = ATTRIBUTORS.create(name, model)(x, (TARGETS + 1) % 3)
    assert not torch.allclose(other, found)


@pytest.mark.parametrize("targets", [TARGETS[:3], TARGETS.float(), TARGETS[:, None]])
def test_bad_targets(targets: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"must be \(N,C,H,W\) and int64 \(N,\)"):
        ATTRIBUTORS.create("saliency", tiny_model())(images(5), targets)


def test_bad_options() -> None:
    with pytest.raises(InputError, match="n_steps parameter"):
        ATTRIBUTORS.create("integrated_gradients", tiny_model(), n_steps=1)
    with pytest.raises(InputError, match="batch_size parameter of Attributor"):
        ATTRIBUTORS.create("saliency", tiny_model(), batch_size=0)
