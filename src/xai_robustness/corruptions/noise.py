"""Sensor noise."""

from xai_robustness.corruptions.base import Corruption, Generators, Images, draw, register


@register("gaussian_noise")
class GaussianNoise(Corruption):
    """`x + c n` with standard normal n for each pixel and channel; c is the standard deviation in units of [0,1]."""

    by_channel = True

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Add the noise."""
        return images + constant * draw(generators, tuple(images.shape[1:]), images, normal=True)
