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
from xai_robustness.attacks.surrogate import guided
from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.cam import LayerMap
from xai_robustness.models.taps import tap
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


@MAPS.register("guided_backprop")
class GuidedBackpropMap(DifferentiableMap):
    """Gradient that passes a ReLU where its input and what comes back are positive [Springenberg2015]."""

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Signed."""
        with guided(model):
            return _gradient(model, images, targets, graph).sum(1)


@MAPS.register("input_x_gradient")
class InputXGradientMap(DifferentiableMap):
    """x ⊙ ∂f_t/∂x, summed over channels [Shrikumar2016]; both factors follow the image."""

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Signed."""
        x = images if images.requires_grad else images.detach().requires_grad_()
        return (x * _gradient(model, x, targets, graph)).sum(1)


@MAPS.register("smooth_grad")
class SmoothGradMap(DifferentiableMap):
    """Mean of the gradients at noisy copies of the image, summed over channels [Smilkov2017].

    The noise follows the sample, not the batch, and stays the same during an attack.

    Args:
        n_samples: noisy copies an image.
        noise: their standard deviation, as a share of each image's own range.
    """

    power = 1

    def __init__(self, n_samples: int = 5, noise: float = 0.15) -> None:
        if n_samples < 1 or noise < 0:
            raise InputError(
                f"The n_samples and noise parameters of SmoothGradMap must be at least 1 and 0. "
                f"Got {n_samples} and {noise} instead."
            )
        self.n_samples, self.noise = n_samples, noise
        self.drawn: Tensor | None = None

    def prepare(self, model: nn.Module, images: Tensor, streams: Streams) -> "SmoothGradMap":
        """Draw the noise, scaled by the range of each clean image."""
        prepared = type(self)(self.n_samples, self.noise)
        flat = images.flatten(1)
        scale = (self.noise * (flat.amax(1) - flat.amin(1))).reshape(-1, 1, 1, 1, 1)
        like = images[:, None].expand(-1, self.n_samples, -1, -1, -1)
        prepared.drawn = streams.normal(like) * scale
        return prepared

    def rows(self, rows: Int64[Tensor, " r"]) -> "SmoothGradMap":
        """The noise of these samples."""
        assert self.drawn is not None
        part = type(self)(self.n_samples, self.noise)
        part.drawn = self.drawn[rows]
        return part

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Signed."""
        assert self.drawn is not None
        noisy = (images[:, None] + self.drawn).flatten(0, 1)
        gradient = _gradient(model, noisy, targets.repeat_interleave(self.n_samples), graph)
        return (gradient**self.power).unflatten(0, (len(images), self.n_samples)).mean(1).sum(1)


@MAPS.register("smooth_grad_squared")
class SmoothGradSquaredMap(SmoothGradMap):
    """Mean of the squares of these gradients, never negative [Hooker2019]."""

    power = 2


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


class CamMap(DifferentiableMap):
    """A class activation map of a layer, upsampled bilinearly; the formula is the one of `attribution.cam`.

    Args:
        layer: by default the last inspected layer.
    """

    kind: str

    def __init__(self, layer: str | None = None) -> None:
        self.layer = layer
        self.formula: LayerMap | None = None

    def prepare(self, model: nn.Module, images: Tensor, streams: Streams) -> "CamMap":
        """Find the layer."""
        prepared = type(self)(self.layer)
        prepared.formula = ATTRIBUTORS.create(self.kind, model, layer=self.layer)
        assert prepared.formula is not None
        prepared.layer = prepared.formula.layer
        return prepared

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, graph: bool = True) -> Tensor:
        """Never negative."""
        assert self.formula is not None and self.layer is not None
        x = images if images.requires_grad else images.detach().requires_grad_()
        with torch.enable_grad(), tap(model, [self.layer]) as outputs:
            total = self.formula.objective(model(x), targets).sum()
            activation = outputs[self.layer]
            (gradient,) = torch.autograd.grad(total, activation, create_graph=graph)
            small = self.formula.combine(activation, gradient).relu()[:, None]
            return F.interpolate(small, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


for _kind in ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "finer_cam"):
    MAPS.register(_kind)(type(f"CamMap_{_kind}", (CamMap,), {"kind": _kind, "__doc__": ATTRIBUTORS[_kind].__doc__}))


def checked_map(name: str) -> str:
    """Return `name` if it is a method whose explanation can be attacked.

    Raises:
        InputError: a method that cannot be differentiated, or is unknown.
    """
    if name not in MAPS and name in ATTRIBUTORS:
        raise InputError(
            f"The method parameter of an attack on explanations must be one that can be differentiated with respect to "
            f"the image. Got '{name}' instead; choose from: {', '.join(MAPS.names())}."
        )
    return MAPS.checked(name)


def make_map(name: str, **settings: Any) -> DifferentiableMap:
    """The differentiable form of an attribution method.

    Raises:
        InputError: a method that cannot be differentiated, or is unknown.
    """
    found: DifferentiableMap = MAPS.create(checked_map(name), **settings)
    return found


def post_process(maps: Heatmaps) -> Heatmaps:
    """Negatives to 0, then each map into [0,1] by its own minimum and maximum (+1e-8), differentiable."""
    maps = maps.clamp(min=0)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-8)
