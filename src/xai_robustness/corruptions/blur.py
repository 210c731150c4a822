"""Blur by motion."""

import math

import torch
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
