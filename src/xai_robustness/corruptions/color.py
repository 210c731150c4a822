"""Exposure: contrast and brightness."""

import torch

from xai_robustness.corruptions.base import Corruption, Generators, Images, register


@register("contrast")
class Contrast(Corruption):
    """`(x - m) c + m` with the mean m of each channel of each image; c = 1 would be the identity."""

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Shrink the values towards their mean."""
        mean = images.mean(dim=(2, 3), keepdim=True)
        return (images - mean) * constant + mean


@register("brightness")
class Brightness(Corruption):
    """HSV value plus c for colour images, hue and saturation kept; x + c for gray ones."""

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Raise the value; a black pixel has no hue and becomes gray."""
        value = images.amax(dim=1, keepdim=True)
        raised = (value + constant).clamp(max=1)
        colour = images / torch.where(value > 0, value, 1)
        return torch.where(value > 0, colour, 1) * raised
