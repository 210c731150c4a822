"""Attributions from one gradient of the target logit, and from that of noisy copies."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor, check_option
from xai_robustness.attribution.nonlinear import Nonlinearities, deconvolved, guided
from xai_robustness.attribution.points import accumulate
from xai_robustness.randomness import torch_rng
from xai_robustness.types import InputError


@ATTRIBUTORS.register("saliency")
class Saliency(Attributor):
    """Absolute gradient |∂f_t/∂x|, never negative [Simonyan2014]."""

    uses_gradient = True

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Absolute gradients of one batch."""
        return self.gradient.abs()


@ATTRIBUTORS.register("input_x_gradient")
class InputXGradient(Attributor):
    """Gradient times input, x ⊙ ∂f_t/∂x [Shrikumar2016]."""

    uses_gradient = True

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Products of one batch."""
        return images * self.gradient


class _ReluBackward(Attributor):
    """A gradient in which every ReLU of the model, module or function, goes backward by another rule."""

    rule = staticmethod(guided)

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Gradients of one batch; raises InputError for a model without ReLU, where the method is the gradient."""
        x = images.detach().clone().requires_grad_()
        with torch.enable_grad(), Nonlinearities(relu=self.rule) as met:
            total = self.model(x).gather(1, targets[:, None]).sum()
        if met.calls == 0:
            raise InputError(
                f"The model parameter of {type(self).__name__} must use ReLU. Got a model without it instead; "
                f"there the method would be the plain gradient: use saliency."
            )
        return torch.autograd.grad(total, x)[0]


@ATTRIBUTORS.register("guided_backprop")
class GuidedBackprop(_ReluBackward):
    """Gradient that passes a ReLU where both the ReLU's input and what comes back are positive [Springenberg2015]."""


@ATTRIBUTORS.register("deconvolution")
class Deconvolution(_ReluBackward):
    """Gradient that passes a ReLU where what comes back is positive, whatever its input was [Zeiler2014]."""

    rule = staticmethod(deconvolved)


@ATTRIBUTORS.register("smooth_grad")
class SmoothGrad(Attributor):
    """Mean gradient of noisy copies x + N(0, (noise · (max x - min x))²), the range image by image [Smilkov2017].

    Args:
        model: classifier.
        n_samples: noisy copies.
        noise: standard deviation of the noise, as a share of the image's range.
        seed: seed of the noise, which is the same for all images up to their range.
        batch_size: images at once.
        internal_batch_size: forward passes at once, images times copies.
    """

    power = 1

    def __init__(
        self,
        model: nn.Module,
        n_samples: int = 50,
        noise: float = 0.15,
        seed: int = 0,
        batch_size: int = 64,
        internal_batch_size: int = 128,
    ) -> None:
        super().__init__(model, batch_size)
        caller = type(self).__name__
        check_option(caller, "n_samples", n_samples, n_samples >= 1, "at least 1")
        check_option(caller, "noise", noise, noise >= 0, "at least 0")
        check_option(caller, "internal_batch_size", internal_batch_size, internal_batch_size >= 1, "at least 1")
        self.n_samples = n_samples
        self.noise = noise
        self.seed = seed
        self.internal_batch_size = internal_batch_size

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Mean of one batch."""
        flat = images.flatten(1)
        ranges = (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (images.ndim - 1))

        def points(rows: slice, places: range) -> Tensor:
            noise = torch.stack([self._draw(images, place) for place in places])[:, None]
            return images[rows] + self.noise * ranges[rows] * noise

        def reduce(gradients: Tensor, rows: slice, places: range) -> Tensor:
            return (gradients**self.power).sum(0)

        total = accumulate(self.model, images, targets, range(self.n_samples), self.internal_batch_size, points, reduce)
        return total / self.n_samples

    def _draw(self, images: Tensor, place: int) -> Tensor:
        rng = torch_rng(self.seed, "smooth_grad", place)
        return torch.randn(images.shape[1:], generator=rng, dtype=torch.float64).to(images)


@ATTRIBUTORS.register("smooth_grad_squared")
class SmoothGradSquared(SmoothGrad):
    """Mean of the squared gradients that SmoothGrad averages, never negative [Hooker2019]; the same options."""

    power = 2
