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


def test_bad_options() -> None:
    with pytest.raises(InputError, match="n_steps parameter"):
        ATTRIBUTORS.create("integrated_gradients", tiny_model(), n_steps=1)
    with pytest.raises(InputError, match="internal_batch_size parameter"):
        ATTRIBUTORS.create("integrated_gradients", tiny_model(), internal_batch_size=0)
