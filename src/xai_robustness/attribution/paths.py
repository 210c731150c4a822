"""Gradients along the straight way from a baseline to the image: Integrated Gradients and GradientSHAP."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor, check_option
from xai_robustness.attribution.baselines import Baseline, BaselineSet
from xai_robustness.attribution.points import accumulate, pull_back, split_affine


@ATTRIBUTORS.register("integrated_gradients")
class IntegratedGradients(Attributor):
    """Mean gradient on the straight way from a baseline to the image, times their difference [Sundararajan2017].

    Complete: the attribution sums to f_t(x) - f_t(baseline), up to the quadrature (Gauss-Legendre).

    Args:
        model: classifier.
        n_steps: points of the quadrature.
        baseline: a name of BASELINES, or an image (C,…) in the images' units.
        mean_image: (C,…), for the baseline "mean".
        seed: seed of random baselines.
        batch_size: images at once.
        internal_batch_size: forward passes at once, images times steps.
    """

    def __init__(
        self,
        model: nn.Module,
        n_steps: int = 50,
        baseline: str | Tensor = "zero",
        mean_image: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 64,
        internal_batch_size: int = 128,
    ) -> None:
        super().__init__(model, batch_size)
        check_option("IntegratedGradients", "n_steps", n_steps, n_steps >= 2, "at least 2")
        fine = internal_batch_size >= 1
        check_option("IntegratedGradients", "internal_batch_size", internal_batch_size, fine, "at least 1")
        self.n_steps = n_steps
        self.baseline = Baseline("IntegratedGradients", baseline, mean_image, seed)
        self.internal_batch_size = internal_batch_size

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Integrated gradients of one batch."""
        baseline = self.baseline.of(images).expand_as(images)
        nodes, weights = np.polynomial.legendre.leggauss(self.n_steps)  # on [-1,1]
        steps, shares = images.new_tensor((1 + nodes) / 2), images.new_tensor(weights / 2)

        first, rest = split_affine(self.model)
        with torch.no_grad():
            start, end = (first(ends).to(images.dtype) for ends in (baseline, images))
        steps, shares = (each.reshape(-1, *[1] * end.ndim) for each in (steps, shares))

        def points(rows: slice, places: range) -> Tensor:
            return torch.lerp(start[rows], end[rows], steps[places.start : places.stop])

        def reduce(gradients: Tensor, rows: slice, places: range) -> Tensor:
            return (shares[places.start : places.stop] * gradients).sum(0)

        every = range(self.n_steps)
        mean = accumulate(rest, end, targets, every, self.internal_batch_size, points, reduce)
        return (images - baseline) * pull_back(first, images, mean)


@ATTRIBUTORS.register("gradient_shap")
class GradientShap(Attributor):
    """Mean of (x - b) ⊙ ∂f_t/∂x at random points between the image and random baselines b [Lundberg2017].

    The draws are the same for all images, and those of fewer samples are the first ones of those of more.

    Args:
        model: classifier.
        n_samples: draws of a baseline and a point.
        baselines: own baselines (R,C,…), drawn evenly; None: the set of BaselineSet.
        mean_image: (C,…), one third of that set.
        seed: seed of the draws.
        batch_size: images at once.
        internal_batch_size: forward passes at once, images times draws.
    """

    def __init__(
        self,
        model: nn.Module,
        n_samples: int = 20,
        baselines: Tensor | None = None,
        mean_image: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 64,
        internal_batch_size: int = 128,
    ) -> None:
        super().__init__(model, batch_size)
        check_option("GradientShap", "n_samples", n_samples, n_samples >= 1, "at least 1")
        check_option("GradientShap", "internal_batch_size", internal_batch_size, internal_batch_size >= 1, "at least 1")
        self.n_samples = n_samples
        self.baselines = BaselineSet("GradientShap", baselines, mean_image, seed)
        self.internal_batch_size = internal_batch_size

    def attribute(
        self, images: Float[Tensor, "b c *positions"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c *positions"]:
        """Mean of one batch; goes on from the sum of fewer draws if another method has it."""
        key = (type(self), self.baselines.seed, id(self.baselines.baselines), id(self.baselines.mean_image))
        sums: dict[int, Tensor] = self.notes.setdefault(key, {})
        done = max((n for n in sums if n <= self.n_samples), default=0)
        total = sums.get(done, torch.zeros_like(images))
        if done < self.n_samples:
            total = total + self._sum(images, targets, range(done, self.n_samples))
        sums[self.n_samples] = total
        return total / self.n_samples

    def _sum(self, images: Tensor, targets: Tensor, draws: range) -> Tensor:
        found, positions = self.baselines.draw(images, draws)
        baselines, positions = found[:, None], positions.reshape(-1, *[1] * images.ndim)

        def points(rows: slice, places: range) -> Tensor:
            return torch.lerp(baselines[_within(places, draws)], images[rows], positions[_within(places, draws)])

        def reduce(gradients: Tensor, rows: slice, places: range) -> Tensor:
            return ((images[rows] - baselines[_within(places, draws)]) * gradients).sum(0)

        return accumulate(self.model, images, targets, draws, self.internal_batch_size, points, reduce)


def _within(places: range, draws: range) -> slice:
    return slice(places.start - draws.start, places.stop - draws.start)
