"""Noise of the sensor that depends on the signal: speckle, defective pixels, photon counts."""

from functools import lru_cache

import torch
from jaxtyping import Float, Int32
from scipy.special import pdtr
from torch import Tensor

from xai_robustness.corruptions.base import Corruption, Generators, Images, draw, register

BINS = 4096
"""Bins of the guide table of Poisson draws."""


@register("speckle_noise")
class SpeckleNoise(Corruption):
    """`x + c x n` with standard normal n for each pixel and channel."""

    by_channel = True

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Multiply by the noise."""
        noise = draw(generators, tuple(images.shape[1:]), images, normal=True)
        return noise.mul_(constant).add_(1).mul_(images)


@register("impulse_noise")
class ImpulseNoise(Corruption):
    """A share c of the values, each channel for itself, becomes 0 or 1, each with half the probability."""

    by_channel = True

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Replace values: one uniform number decides whether, and by what."""
        uniform = draw(generators, tuple(images.shape[1:]), images, normal=False)
        kept = torch.where(uniform < constant, (uniform < constant / 2).to(images), images)
        return kept


@register("shot_noise")
class ShotNoise(Corruption):
    """`Poisson(c x) / c`: the image, rounded to 8 bits, as a count of photons; fewer photons make more noise."""

    by_channel = True

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Count photons."""
        uniform = draw(generators, tuple(images.shape[1:]), images, normal=False)
        levels = (images * 255).round().int()
        return poisson(uniform, levels, float(constant)).to(images) / constant


def poisson(uniform: Float[Tensor, "..."], levels: Int32[Tensor, "..."], scale: float) -> Int32[Tensor, "..."]:
    """Poisson counts of mean `scale * levels / 255` by inversion of the distribution function at `uniform`.

    A guide table answers at once wherever no step of the distribution function lies in the uniform number's bin; the
    few others are searched, so that the law is exact.
    """
    guide, steps = (part.to(uniform.device) for part in _poisson_tables(scale))
    given, level = uniform.flatten(), levels.flatten()
    counts = guide.index_select(0, (level * BINS).add_((given * BINS).int())).int()
    open_ = (counts < 0).nonzero()[:, 0]
    keys = level[open_].double() + given[open_].double()
    width = len(steps) // 256
    counts[open_] = (torch.searchsorted(steps, keys, right=True) - level[open_] * width).int()
    return counts.reshape(uniform.shape)


@lru_cache(maxsize=16)
def _poisson_tables(scale: float) -> tuple[Tensor, Tensor]:
    """Counts by (level, bin), -1 where a step lies in the bin, and all distribution functions raised by their levels.

    Raised by 0..255, the 256 distribution functions follow each other in one sorted row. They are cut where less than
    float32's resolution is left, and their last value is 1.
    """
    count = int(scale + 9 * scale**0.5 + 12)
    means = torch.arange(256, dtype=torch.float64) * scale / 255
    steps = torch.from_numpy(pdtr(torch.arange(count, dtype=torch.float64).numpy()[None], means.numpy()[:, None]))
    steps[:, -1] = 1
    raised = (steps + torch.arange(256, dtype=torch.float64)[:, None]).flatten()
    edges = torch.arange(BINS + 1, dtype=torch.float64) / BINS
    found = torch.searchsorted(steps, edges.repeat(256, 1).contiguous(), right=True)
    guide = torch.where(found[:, :-1] == found[:, 1:], found[:, :-1], -1)
    guide[:, -1] = torch.where(found[:, -2] >= count - 1, count - 1, -1)
    return guide.to(torch.int16).flatten(), raised
