"""Blur: by motion, by zooming, out of focus, by a Gaussian."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from xai_robustness.corruptions.base import Corruption, Generators, Images, draw, register
from xai_robustness.corruptions.tables import REFERENCE_SIZE

MAX_ANGLE = 45.0
"""Largest angle between the motion and the horizontal, in degrees."""


@register("motion_blur")
class MotionBlur(Corruption):
    """Weighted mean of the image shifted by 0..2r pixels along an angle drawn from U(-45,45) degrees.

    The weights are a half Gaussian of standard deviation sigma; shifts are rounded to whole pixels and the border is
    replicated. Radius and sigma are given for 224 pixels and scaled by min(H,W)/224, the radius to at least one pixel.
    The standard constants of severities 1 and 2 differ in the radius alone, where the weights are already small: their
    results are nearly the same.
    """

    def apply(self, images: Images, constant: tuple[float, float], generators: Generators) -> Images:
        """Sum the shifted images, each a window of the padded one."""
        height, width = images.shape[-2:]
        radius, sigma = scaled(constant, min(height, width))
        weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * radius + 1)]
        reach = 2 * radius
        padded = functional.pad(images, (0, reach, reach, reach), mode="replicate")
        angles = torch.deg2rad((2 * draw(generators, (1,), images, normal=False) - 1) * MAX_ANGLE)
        blurred = torch.zeros_like(images)
        for image, angle, total in zip(padded, angles.flatten().tolist(), blurred):
            for step, weight in enumerate(weights):
                top = reach + math.floor(step * math.sin(angle) + 0.5)
                left = math.floor(step * math.cos(angle) + 0.5)
                window = image[:, top : top + height, left : left + width]
                total.add_(window, alpha=weight / sum(weights))
        return blurred


def scaled(constant: tuple[float, float], size: int) -> tuple[int, float]:
    """Radius (pixels, at least 1) and sigma (pixels) for an image of this side."""
    scale = size / REFERENCE_SIZE
    return max(1, int(constant[0] * scale + 0.5)), constant[1] * scale


@register("gaussian_blur")
class GaussianBlur(Corruption):
    """Gaussian window of c pixels and `sigma = 0.3 ((c - 1)/2 - 1) + 0.8`, for 224 pixels; the border is reflected."""

    def apply(self, images: Images, constant: int, generators: Generators) -> Images:
        """One matrix from each side."""
        scale = min(images.shape[-2:]) / REFERENCE_SIZE
        rows, columns = (_gaussian(size, constant, scale).to(images) for size in images.shape[-2:])
        return rows @ images @ columns.T


@lru_cache(maxsize=32)
def _gaussian(size: int, window: int, scale: float) -> Float[Tensor, "s s"]:
    places = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    weights = torch.exp(-(places**2) / (2 * (0.3 * ((window - 1) * 0.5 - 1) + 0.8) ** 2))
    kernel = shrunk((weights / weights.sum())[None], scale, columns_only=True)[0]
    reach = len(kernel) // 2
    padded = functional.pad(torch.eye(size, dtype=torch.float64)[None], (reach, reach), mode="reflect")[0]
    return (padded.unfold(1, len(kernel), 1) @ kernel).T


@register("defocus_blur")
class DefocusBlur(Corruption):
    """Mean over a disc of radius r whose edge is smoothed by a 3 x 3 Gaussian of deviation s, for 224 pixels.

    The border is reflected.
    """

    def apply(self, images: Images, constant: tuple[float, float], generators: Generators) -> Images:
        """Convolve each channel with the disc, a large one by Fourier transform."""
        kernel = disc(*constant, min(images.shape[-2:]) / REFERENCE_SIZE).to(images)
        reach = len(kernel) // 2
        padded = functional.pad(images, (reach, reach, reach, reach), mode="reflect")
        if reach < 5:
            return functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view_as(images)
        size = tuple(padded.shape[-2:])
        spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=size)
        blurred = torch.fft.irfft2(spectrum, s=size)
        return blurred[..., 2 * reach :, 2 * reach :]


@lru_cache(maxsize=32)
def disc(radius: float, deviation: float, scale: float = 1.0) -> Float[Tensor, "k k"]:
    """Weights of the defocus blur, cut to where they are not zero.

    They sum to 1, but for a disc that touches the edge of the published 17 x 17 window (radius 8): there to 1.013.
    """
    reach = 8 if radius <= 8 else math.ceil(radius)
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    inside = (place[:, None] ** 2 + place**2 <= radius**2).double()
    tap = torch.exp(-(torch.arange(-1.0, 2.0, dtype=torch.float64) ** 2) / (2 * deviation**2))
    smooth = torch.outer(tap, tap) / tap.sum() ** 2
    padded = functional.pad((inside / inside.sum())[None, None], (1, 1, 1, 1), mode="reflect")
    kernel = functional.conv2d(padded, smooth[None, None])[0, 0]
    used = int(place[(kernel > 1e-12).any(dim=0)].abs().max())
    kernel = kernel[reach - used : reach + used + 1, reach - used : reach + used + 1]
    return shrunk(kernel, scale)


@register("zoom_blur")
class ZoomBlur(Corruption):
    """Mean of the image and of its enlargements about the centre by every factor of the list, bilinear."""

    def apply(self, images: Images, constant: tuple[float, ...], generators: Generators) -> Images:
        """Add the enlargements one by one."""
        total = images.clone()
        for factor in constant:
            total += enlarged(images, factor)
        return total / (len(constant) + 1)


def enlarged(images: Images, factor: float) -> Images:
    """The central `ceil(size / factor)` pixels, enlarged by `factor` (corners stay corners), cut to the old size."""
    sides = [math.ceil(size / factor) for size in images.shape[-2:]]
    starts = [(size - side) // 2 for size, side in zip(images.shape[-2:], sides)]
    window = images[..., starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]]
    large = [max(size, round(side * factor)) for size, side in zip(images.shape[-2:], sides)]
    zoomed = functional.interpolate(window, size=large, mode="bilinear", align_corners=True)
    cuts = [(wide - size) // 2 for wide, size in zip(large, images.shape[-2:])]
    return zoomed[..., cuts[0] : cuts[0] + images.shape[-2], cuts[1] : cuts[1] + images.shape[-1]]


def shrunk(kernel: Float[Tensor, "k l"], scale: float, columns_only: bool = False) -> Float[Tensor, "m n"]:
    """A kernel meant for 224 pixels at another image size: every weight goes, bilinearly shared, to its scaled place.

    A scale of 1 gives the kernel itself; the sum of the weights and their centre stay.
    """
    axes = (1,) if columns_only else (0, 1)
    for axis in axes:
        moved = kernel.movedim(axis, -1)
        reach = moved.shape[-1] // 2
        places = torch.arange(-reach, reach + 1, dtype=torch.float64) * scale
        new = math.ceil(reach * scale)
        targets = torch.arange(-new, new + 1, dtype=torch.float64)
        share = (1 - (places[:, None] - targets).abs()).clamp(min=0)
        kernel = (moved @ share).movedim(-1, axis)
    return kernel
