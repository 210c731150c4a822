"""Attributions from the gradient of the target logit."""

from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor, check_option


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


@ATTRIBUTORS.register("integrated_gradients")
class IntegratedGradients(Attributor):
    """Gradients averaged on the way from a black image, times the image [Sundararajan2017], by captum.

    Complete: the attribution sums to f_t(x) - f_t(black), up to the quadrature (Gauss-Legendre).

    Args:
        model: classifier.
        n_steps: points of the quadrature.
        batch_size: images at once.
        internal_batch_size: forward passes at once, images times steps.
    """

    def __init__(
        self, model: nn.Sequential, n_steps: int = 50, batch_size: int = 64, internal_batch_size: int = 256
    ) -> None:
        super().__init__(model, batch_size)
        check_option("IntegratedGradients", "n_steps", n_steps, n_steps >= 2, "at least 2")
        fine = internal_batch_size >= 1
        check_option("IntegratedGradients", "internal_batch_size", internal_batch_size, fine, "at least 1")
        self.n_steps = n_steps
        self.internal_batch_size = internal_batch_size

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Integrated gradients of one batch."""
        from captum.attr import IntegratedGradients as Captum  # a slow import

        attribution: Tensor = Captum(self.model).attribute(
            images,
            target=targets,
            n_steps=self.n_steps,
            internal_batch_size=max(self.internal_batch_size, len(images)),
        )
        return attribution
