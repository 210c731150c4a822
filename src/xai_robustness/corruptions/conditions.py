"""Noise conditions of attribution sets: one fixed strength each, seeded by sample [EnsembleStrategies].

The published strengths are for images in [-1,1]; here they are those of [0,1], where the published zero is mid-grey.
"""

from collections.abc import Callable, Sequence

from xai_robustness.corruptions.base import Generators, Images, draw
from xai_robustness.randomness import torch_rng
from xai_robustness.registry import Registry

NOISES: Registry[Callable[[Images, Generators], Images]] = Registry("noise condition")

GAUSSIAN = 0.075
"""Standard deviation of the Gaussian noise, in units of [0,1]."""

SALT_PEPPER = 0.05
"""Share of the pixels drawn for salt and pepper, half for each."""

SPECKLE = 0.075
"""Standard deviation of the speckle at black and white, in units of [0,1]; mid-grey gets none."""


@NOISES.register("clean")
def clean(images: Images, generators: Generators) -> Images:
    """The images as they are."""
    return images.clone()


@NOISES.register("gaussian")
def gaussian(images: Images, generators: Generators) -> Images:
    """`x + 0.075 n`, n standard normal for each pixel and channel."""
    return images + GAUSSIAN * draw(generators, tuple(images.shape[1:]), images, normal=True)


@NOISES.register("salt_pepper")
def salt_pepper(images: Images, generators: Generators) -> Images:
    """2.5 % of the pixels, drawn with replacement and the same in all channels, turn white, then as many black."""
    n, channels, height, width = images.shape
    count = int(SALT_PEPPER * height * width / 2)
    places = (draw(generators, (2, count), images, normal=False).double() * height * width).long()
    places = places.clamp(max=height * width - 1)[:, :, None, :].expand(n, 2, channels, count)
    return images.flatten(2).scatter(2, places[:, 0], 1.0).scatter(2, places[:, 1], 0.0).reshape(images.shape)


@NOISES.register("speckle")
def speckle(images: Images, generators: Generators) -> Images:
    """`x + (2x - 1) 0.075 n`, n standard normal for each pixel and channel."""
    return images + (2 * images - 1) * SPECKLE * draw(generators, tuple(images.shape[1:]), images, normal=True)


def disturb(name: str, images: Images, sample_ids: Sequence[int], seed: int) -> Images:
    """Images of one noise condition, clipped to [0,1]; a sample's noise depends on the seed and its id alone.

    Args:
        name: one of NOISES.
        images: (N,C,H,W) in [0,1]; not changed.
        sample_ids: one id a sample.
        seed: seed of the run.

    Raises:
        InputError: unknown name.
    """
    streams = [torch_rng(seed, "noise", name, int(sample_id)) for sample_id in sample_ids]
    return NOISES[name](images, streams).clamp(0, 1)
