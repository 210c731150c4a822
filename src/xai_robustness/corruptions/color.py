"""Exposure and colour: brightness, contrast, gamma, saturation."""

import torch

from xai_robustness.corruptions.base import Corruption, Generators, Images, luma, register


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


class Brightened(Corruption):
    """`c x`."""

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Multiply."""
        return images * constant


class Contrasted(Corruption):
    """`(x - m) c + m` with one mean m of each image, that of its luma rounded to 8 bits."""

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Spread the values around their mean or shrink them towards it."""
        gray = luma(images) if images.shape[1] == 3 else images
        mean = (gray.mean(dim=(1, 2, 3), keepdim=True) * 255).round() / 255
        return (images - mean) * constant + mean


class Gamma(Corruption):
    """`x ^ c`."""

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Raise to the power."""
        return images**constant


for _way in ("up", "down"):
    for _family, _class in (("brightness", Brightened), ("contrast", Contrasted), ("gamma_corr", Gamma)):
        register(f"{_family}_{_way}")(type(f"{_class.__name__}{_way.title()}", (_class,), {"__doc__": _class.__doc__}))


@register("saturate")
class Saturate(Corruption):
    """HSV saturation plus c, hue and value kept; a gray pixel of a colour image gets hue 0, red.

    A gray image has no colour to saturate and stays as it is.
    """

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Move the values of a pixel away from their largest in proportion."""
        if images.shape[1] == 1:
            return images
        value = images.amax(dim=1, keepdim=True)
        spread = value - images.amin(dim=1, keepdim=True)
        saturation = spread / torch.where(value > 0, value, 1)
        wanted = (saturation + constant).clamp(max=1)
        coloured = value - (value - images) * (wanted / torch.where(spread > 0, saturation, 1))
        red = torch.cat([value, value * (1 - wanted), value * (1 - wanted)], dim=1)
        return torch.where(spread > 0, coloured, red)
