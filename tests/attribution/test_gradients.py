from collections.abc import Callable

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from tests.models.tiny import images, tiny_model
from torch import nn

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 1, 2, 0, 1])
PEERS: dict[str, Callable[[nn.Module], captum.attr.Attribution]] = {
    "saliency": captum.attr.Saliency,
    "input_x_gradient": captum.attr.InputXGradient,
    "guided_backprop": captum.attr.GuidedBackprop,
    "deconvolution": captum.attr.Deconvolution,
}


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to 1e-6 of the largest value; some of captum's methods add up in float32."""
    expected = expected.detach().double()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("name", PEERS)
def test_equals_captum(name: str) -> None:
    model, x = tiny_model().double(), images(5).double()
    found = ATTRIBUTORS.create(name, model, batch_size=2)(x, TARGETS)
    close(found, PEERS[name](model).attribute(x.clone().requires_grad_(), target=TARGETS))


class Functional(nn.Module):
    """The same net with ReLU as functions, in place or not."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 3)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.how(self.first(x))
        x = self.second(x)
        kept = self.how(x)
        return self.last(kept.mean((2, 3)))


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("name", ["guided_backprop", "deconvolution"])
@pytest.mark.parametrize(
    "how",
    [F.relu, torch.relu, torch.Tensor.relu, torch.relu_, lambda x: F.relu(x, inplace=True), nn.ReLU(inplace=True)],
)
def test_relu_is_found_wherever_it_is_called(name: str, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = images(5).double()
    reference = Functional(nn.ReLU()).double()
    reference.how = nn.Identity()  # captum needs each ReLU to be a module used once
    ones = nn.Sequential(reference.first, nn.ReLU(), reference.second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    peer = nn.Sequential(ones, reference.last)
    expected = PEERS[name](peer).attribute(x.clone().requires_grad_(), target=TARGETS)
    close(ATTRIBUTORS.create(name, Functional(how).double())(x, TARGETS), expected)


def test_models_without_relu_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InputError, match="model parameter of GuidedBackprop must use ReLU.*use saliency"):
        ATTRIBUTORS.create("guided_backprop", model)(images(5), TARGETS)


@pytest.mark.parametrize(("name", "kind"), [("smooth_grad", "smoothgrad"), ("smooth_grad_squared", "smoothgrad_sq")])
def test_smooth_grad_equals_captum_with_the_same_noise(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tiny_model().double(), images(5).double()
    x[1] *= 0.5  # ranges differ
    ours = ATTRIBUTORS.create(name, model, n_samples=6, noise=0.2, internal_batch_size=4)
    noise = torch.stack([ours._draw(x, place) for place in range(6)])
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise * std)
    found = ours(x, TARGETS)
    for i in range(5):
        one, std = x[i : i + 1], 0.2 * float(x[i].max() - x[i].min())
        peer = captum.attr.NoiseTunnel(captum.attr.Saliency(model))
        options = {"nt_type": kind, "nt_samples": 6, "stdevs": std, "target": TARGETS[i : i + 1], "abs": False}
        close(found[i : i + 1], peer.attribute(one.clone(), **options))


def test_smooth_grad_without_noise_is_the_gradient() -> None:
    model, x = tiny_model(), images(5)
    found = ATTRIBUTORS.create("smooth_grad_squared", model, n_samples=3, noise=0.0)(x, TARGETS)
    torch.testing.assert_close(found, ATTRIBUTORS.create("saliency", model)(x, TARGETS) ** 2)


def test_the_seed_decides_the_noise() -> None:
    model, x = tiny_model(), images(5)
    one, same, other = (ATTRIBUTORS.create("smooth_grad", model, seed=seed)(x, TARGETS) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other)


@pytest.mark.parametrize("options", [{"n_samples": 0}, {"noise": -0.1}, {"internal_batch_size": 0}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"The {next(iter(options))} parameter of SmoothGrad must be at least"):
        ATTRIBUTORS.create("smooth_grad", tiny_model(), **options)
