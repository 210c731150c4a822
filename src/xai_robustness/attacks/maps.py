"""Explanations that can be differentiated: each gives heatmaps with a graph back to the images.

The functions of `attribution` hand out numbers; an attack needs to know how they move with the image. Both agree
(tests), and the maps here serve before, during and after an attack, so that no difference of code enters it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attacks.streams import Streams
from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.models.taps import tap
from xai_robustness.models.zoo import inspected_layers
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

MAPS = Registry[Callable[..., "DifferentiableMap"]]("differentiable attribution method")

Heatmaps = Float[Tensor, "b h w"]


class DifferentiableMap(ABC):
    """A heatmap of each image for one class, with a graph if it is asked for."""

    def prepare(self, model: nn.Module, images: Float[Tensor, "b c h w"], streams: Streams) -> "DifferentiableMap":
        """A copy with all that must not change during an attack: layers, random draws."""
        return self

    def rows(self, rows: Int64[Tensor, " r"]) -> "DifferentiableMap":
        """The prepared map of some of the samples."""
        return self

    @abstractmethod
    def __call__(
        self, model: nn.Module, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"], graph: bool = True
    ) -> Heatmaps:
        """Signed heatmaps, summed over channels; `graph` keeps the way back to the images."""


def _gradient(model: nn.Module, images: Tensor, targets: Tensor, graph: bool) -> Tensor:
    x = images if images.requires_grad else images.detach().requires_grad_()
    with torch.enable_grad():
        total = model(x).gather(1, targets[:, None]).sum()
        return torch.autograd.grad(total, x, create_graph=graph)[0]


@MAPS.register("saliency")
class SaliencyMap(DifferentiableMap):
    """|∂f_t/∂x|, summed over channels [Simonyan2014]."""

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Never negative."""
        return _gradient(model, images, targets, graph).abs().sum(1)


@MAPS.register("input_x_gradient")
class InputXGradientMap(DifferentiableMap):
    """x ⊙ ∂f_t/∂x, summed over channels [Shrikumar2016]; both factors follow the image."""

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Signed."""
        x = images if images.requires_grad else images.detach().requires_grad_()
        return (x * _gradient(model, x, targets, graph)).sum(1)


@MAPS.register("smooth_grad")
class SmoothGradMap(DifferentiableMap):
    """Mean of squared gradients at noisy copies of the image [Smilkov2017].

    The noise follows the sample, not the batch, and stays the same during an attack.

    Args:
        n_samples: noisy copies an image.
        noise: their standard deviation, as a share of each image's own range.
        squared: mean of squares, or of the signed gradients.
    """

    def __init__(self, n_samples: int = 5, noise: float = 0.15, squared: bool = True) -> None:
        if n_samples < 1 or noise < 0:
            raise InputError(
                f"The n_samples and noise parameters of SmoothGradMap must be at least 1 and 0. "
                f"Got {n_samples} and {noise} instead."
            )
        self.n_samples, self.noise, self.squared = n_samples, noise, squared
        self.drawn: Tensor | None = None

    def prepare(self, model: nn.Module, images: Tensor, streams: Streams) -> "SmoothGradMap":
        """Draw the noise, scaled by the range of each clean image."""
        prepared = SmoothGradMap(self.n_samples, self.noise, self.squared)
        flat = images.flatten(1)
        scale = (self.noise * (flat.amax(1) - flat.amin(1))).reshape(-1, 1, 1, 1, 1)
        like = images[:, None].expand(-1, self.n_samples, -1, -1, -1)
        prepared.drawn = streams.normal(like) * scale
        return prepared

    def rows(self, rows: Int64[Tensor, " r"]) -> "SmoothGradMap":
        """The noise of these samples."""
        assert self.drawn is not None
        part = SmoothGradMap(self.n_samples, self.noise, self.squared)
        part.drawn = self.drawn[rows]
        return part

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Never negative if squared."""
        assert self.drawn is not None
        noisy = (images[:, None] + self.drawn).flatten(0, 1)
        gradient = _gradient(model, noisy, targets.repeat_interleave(self.n_samples), graph)
        gradient = gradient.square() if self.squared else gradient
        return gradient.unflatten(0, (len(images), self.n_samples)).mean(1).sum(1)


@MAPS.register("integrated_gradients")
class IntegratedGradientsMap(DifferentiableMap):
    """Gradients averaged on the way from a black image, times the image [Sundararajan2017], Gauss-Legendre.

    Args:
        n_steps: points of the quadrature.
    """

    def __init__(self, n_steps: int = 16) -> None:
        if n_steps < 2:
            raise InputError(
                f"The n_steps parameter of IntegratedGradientsMap must be at least 2. Got {n_steps} instead."
            )
        points, weights = np.polynomial.legendre.leggauss(n_steps)
        self.points = torch.from_numpy((points + 1) / 2).float()
        self.weights = torch.from_numpy(weights / 2).float()

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Signed; sums to f_t(x) - f_t(black) up to the quadrature."""
        shape = (1, -1, 1, 1, 1)
        x = images if images.requires_grad else images.detach().requires_grad_()
        path = x[:, None] * self.points.to(x).reshape(shape)
        gradient = _gradient(model, path.flatten(0, 1), targets.repeat_interleave(path.shape[1]), graph)
        mean = (gradient.unflatten(0, path.shape[:2]) * self.weights.to(x).reshape(shape)).sum(1)
        return (x * mean).sum(1)


@MAPS.register("grad_cam")
class GradCamMap(DifferentiableMap):
    """Grad-CAM of a layer, upsampled bilinearly [Selvaraju2017].

    Args:
        layer: by default the last inspected layer.
    """

    def __init__(self, layer: str | None = None) -> None:
        self.layer = layer

    def prepare(self, model: nn.Module, images: Tensor, streams: Streams) -> "DifferentiableMap":
        """Find the layer."""
        return type(self)(self.layer or inspected_layers(model)[-1])  # type: ignore[arg-type]

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Never negative."""
        assert self.layer is not None
        x = images if images.requires_grad else images.detach().requires_grad_()
        with torch.enable_grad(), tap(model, [self.layer]) as outputs:
            total = model(x).gather(1, targets[:, None]).sum()
            activation = outputs[self.layer]
            (gradient,) = torch.autograd.grad(total, activation, create_graph=graph)
        weighted = (self.weights(gradient, activation) * activation).sum(1, keepdim=True).relu()
        return F.interpolate(weighted, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    def weights(self, gradient: Tensor, activation: Tensor) -> Tensor:
        """Weight of each channel (B,K,1,1)."""
        return gradient.mean((2, 3), keepdim=True)


@MAPS.register("grad_cam_pp")
class GradCamPlusPlusMap(GradCamMap):
    """Grad-CAM++: pixels weigh by g² / (2 g² + Σ A g³), positive gradients alone [Chattopadhay2018]."""

    def weights(self, gradient: Tensor, activation: Tensor) -> Tensor:
        """Weight of each channel (B,K,1,1)."""
        below = 2 * gradient.square() + gradient**3 * activation.sum((2, 3), keepdim=True) + 1e-6
        share = torch.where(gradient == 0, torch.zeros_like(gradient), gradient.square() / below)
        return (share * gradient.relu()).sum((2, 3), keepdim=True)


def make_map(name: str, **settings: Any) -> DifferentiableMap:
    """The differentiable form of an attribution method.

    Raises:
        InputError: a method that cannot be differentiated, or is unknown.
    """
    if name not in MAPS and name in ATTRIBUTORS:
        raise InputError(
            f"The method parameter of an attack on explanations must be one that can be differentiated with respect to "
            f"the image. Got '{name}' instead; choose from: {', '.join(MAPS.names())}."
        )
    found: DifferentiableMap = MAPS.create(name, **settings)
    return found


def post_process(maps: Heatmaps) -> Heatmaps:
    """Negatives to 0, then each map into [0,1] by its own minimum and maximum (+1e-8), differentiable."""
    maps = maps.clamp(min=0)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-8)
