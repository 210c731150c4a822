"""How far an attack may move an image: a random start, a step along a gradient and the way back, for each norm."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from xai_robustness.attacks.streams import Streams
from xai_robustness.models.adversarial import check_eps
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

Images = Float[Tensor, "b c h w"]
Point = Float[Tensor, "b ..."]
"""Where an attack stands: an image, or what an image is made of (Fourier)."""

BUDGETS = Registry[type["Budget"]]("norm")

SLACK = 1e-5
"""Relative and absolute rounding error that `Budget.exceeded` allows; far below one grey level of 255."""


class Budget(ABC):
    """All images within a distance ε of an image, in the box [0,1].

    An attack walks over points; for most norms a point is the image itself.

    Args:
        eps: radius in units of the images ([0,1]); not used by norms without a radius.
    """

    norm: str

    def __init__(self, eps: float = math.inf) -> None:
        self.eps = check_eps(eps, self.norm, type(self).__name__)

    def encode(self, images: Images) -> Point:
        """The point of an image."""
        return images

    def decode(self, point: Point) -> Images:
        """The image of a point, differentiable."""
        return point

    @abstractmethod
    def start(self, origin: Images, streams: Streams) -> Point:
        """A random point within the budget."""

    @abstractmethod
    def ascend(self, point: Point, gradient: Point, length: float) -> Point:
        """One step of steepest ascent; a gradient of zero does not move the point."""

    @abstractmethod
    def project(self, point: Point, origin: Images) -> Point:
        """The point within the budget and the box that stands for `point`; unchanged where it is within."""

    @abstractmethod
    def distance(self, images: Images, origin: Images) -> Float[Tensor, " b"]:
        """Distance of each image to its origin in this norm, float64."""

    def exceeded(self, images: Images, origin: Images) -> bool:
        """Whether any image is not finite, outside [0,1], or further than ε from its origin, beyond rounding."""
        inside = bool(images.isfinite().all()) and bool((images >= 0).all()) and bool((images <= 1).all())
        return not inside or bool((self.distance(images, origin) > self.eps * (1 + SLACK) + SLACK).any())


@BUDGETS.register("linf")
class Linf(Budget):
    """No pixel moves by more than ε; a step has the sign of the gradient [Goodfellow2015]."""

    norm = "linf"

    def start(self, origin: Images, streams: Streams) -> Point:
        """Every pixel uniform within ε."""
        return self.project(origin + self.eps * (2 * streams.uniform(origin) - 1), origin)

    def ascend(self, point: Point, gradient: Point, length: float) -> Point:
        """Every pixel moves by `length`."""
        return point + length * gradient.sign()

    def project(self, point: Point, origin: Images) -> Point:
        """Clip every pixel."""
        return torch.minimum(torch.maximum(point, origin - self.eps), origin + self.eps).clamp(0, 1)

    def distance(self, images: Images, origin: Images) -> Float[Tensor, " b"]:
        """Largest absolute difference."""
        return (images.double() - origin.double()).abs().flatten(1).amax(1)


def _norms(difference: Tensor) -> Tensor:
    """L2 norm of each sample in float64, shaped to divide it."""
    norms = difference.double().flatten(1).norm(dim=1)
    return norms.reshape(-1, *[1] * (difference.ndim - 1))


def _directions(gradient: Tensor) -> Tensor:
    norms = _norms(gradient).to(gradient.dtype)
    return torch.where(norms > 0, gradient / norms, torch.zeros_like(gradient))


@BUDGETS.register("l2")
class L2(Budget):
    """The Euclidean norm over all pixels and channels of the change is at most ε; a step is a unit gradient."""

    norm = "l2"

    def start(self, origin: Images, streams: Streams) -> Point:
        """Uniform in the ball."""
        radius = streams.uniform(origin[:, :1, :1, :1]) ** (1 / origin[0].numel())
        return self.project(origin + self.eps * radius * _directions(streams.normal(origin)), origin)

    def ascend(self, point: Point, gradient: Point, length: float) -> Point:
        """The point moves by `length`."""
        return point + length * _directions(gradient)

    def project(self, point: Point, origin: Images) -> Point:
        """Shorten the change to ε, then clip to the box, which shortens it further."""
        change = point - origin
        norms = _norms(change)
        shorter = change * (self.eps * (1 - 1e-6) / norms.clamp(min=1e-30)).to(change.dtype)
        return torch.where(norms > self.eps, origin + shorter, point).clamp(0, 1)

    def distance(self, images: Images, origin: Images) -> Float[Tensor, " b"]:
        """Euclidean distance."""
        return _norms(images.double() - origin.double()).flatten()


@BUDGETS.register("unconstrained")
class Unconstrained(Budget):
    """Any image in [0,1]; a step is the gradient times its length, as in feature visualisation [Engstrom2019]."""

    norm = "unconstrained"

    def start(self, origin: Images, streams: Streams) -> Point:
        """The image itself: there is no radius to draw from."""
        return origin

    def ascend(self, point: Point, gradient: Point, length: float) -> Point:
        """Plain gradient ascent."""
        return point + length * gradient

    def project(self, point: Point, origin: Images) -> Point:
        """Clip to the box."""
        return point.clamp(0, 1)

    def distance(self, images: Images, origin: Images) -> Float[Tensor, " b"]:
        """Euclidean distance, for information."""
        return _norms(images.double() - origin.double()).flatten()


@BUDGETS.register("fourier")
class Fourier(Unconstrained):
    """Any image: the sigmoid of an inverse Fourier transform, whose coefficients are moved [Engstrom2019].

    The coefficients are those of the orthonormal real transform, real and imaginary parts side by side. An image comes
    back within 1e-3, since a sigmoid reaches neither 0 nor 1.
    """

    norm = "fourier"
    edge = 1e-3

    def encode(self, images: Images) -> Point:
        """Coefficients (B,C,H,W//2+1,2) and the width, which the transform does not tell."""
        self._width = images.shape[-1]
        inside = images.clamp(self.edge, 1 - self.edge)
        return torch.view_as_real(torch.fft.rfft2(torch.logit(inside), norm="ortho"))

    def decode(self, point: Point) -> Images:
        """Sigmoid of the inverse transform."""
        size = (point.shape[2], self._width)
        return torch.fft.irfft2(torch.view_as_complex(point.contiguous()), s=size, norm="ortho").sigmoid()

    def start(self, origin: Images, streams: Streams) -> Point:
        """The image itself."""
        return self.encode(origin)

    def ascend(self, point: Point, gradient: Point, length: float) -> Point:
        """The coefficients of an image move by `length` in all."""
        return point + length * _directions(gradient)

    def project(self, point: Point, origin: Images) -> Point:
        """Every point stands for an image in the box."""
        return point


def make_budget(norm: str, eps: float = math.inf) -> Budget:
    """The budget of a norm.

    Args:
        norm: one of BUDGETS.
        eps: radius in units of the images ([0,1]); needed for linf and l2.

    Raises:
        InputError: no such norm, or no radius.
    """
    budget: Budget = BUDGETS.create(norm, eps)
    return budget


def check_length(length: float | None, caller: str) -> None:
    """Raise InputError unless a step's length is None or positive and finite."""
    if length is not None and not 0 < length < math.inf:
        raise InputError(f"The step_size parameter of {caller} must be positive and finite. Got {length} instead.")
