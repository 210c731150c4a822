"""Things on the slide or the lens: stains, bubbles, a round aperture. Drawn by a procedure, without stored stamps."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from xai_robustness.corruptions.base import Corruption, Generators, Images, draw, register
from xai_robustness.corruptions.tables import REFERENCE_SIZE

MARGIN, LEAST_RADIUS, LEAST_BUBBLES, RIM = 10, 3, 7, 2
"""Pixels of a 224-pixel image: distance of a stain to the border; radius and number of bubbles, width of their rim."""

WAVES = 5
"""Waves of a stain's outline."""

INSIDE, ON_RIM = 100 / 255, 130 / 255
"""Opacity of a bubble."""


@register("stain_deposit")
class StainDeposit(Corruption):
    """1 to c black stains of irregular outline at random places, 10 pixels at least from the border.

    A stain fills about 60 % of its square box. Sizes are for 224 pixels and are scaled with the shorter side.
    """

    def apply(self, images: Images, constant: tuple[int, int], generators: Generators) -> Images:
        """Draw number, places and outlines of all stains; black where one lies."""
        most, side = constant
        height, width = images.shape[-2:]
        scale = min(height, width) / REFERENCE_SIZE
        box = max(2, round(side * scale))
        margin = round(MARGIN * scale)
        numbers = draw(generators, (1 + most * (3 + 2 * WAVES),), images, normal=False).double().cpu()
        outlines = numbers[:, 1:].reshape(len(images), most, 3 + 2 * WAVES)
        shapes = stains(outlines[..., 2:], box)
        stained = images.clone()
        for row, (count, places) in enumerate(zip(_whole(numbers[:, 0], 1, most), outlines[..., :2])):
            tops = _whole(places[:, 0], margin, height - box - margin)
            lefts = _whole(places[:, 1], margin, width - box - margin)
            for top, left, shape in list(zip(tops, lefts, shapes[row]))[:count]:
                stained[row, :, top : top + box, left : left + box] *= (~shape).to(images)
        return stained


def stains(numbers: Float[Tensor, "n m w"], box: int) -> Tensor:
    """Filled outlines r(a) = mean + sum_k amplitude_k cos(k a + phase_k), (N,M,box,box), from U(0,1) numbers."""
    place = (torch.arange(box, dtype=torch.float64) + 0.5) / box * 2 - 1
    y, x = torch.meshgrid(place, place, indexing="ij")
    angle, radius = torch.atan2(y, x), torch.hypot(x, y)
    orders = torch.arange(1, WAVES + 1, dtype=torch.float64)
    mean = 0.8 + 0.18 * numbers[..., :1, None]
    amplitudes = 0.22 * numbers[..., 1 : WAVES + 1] / orders
    phases = 2 * math.pi * numbers[..., WAVES + 1 :]
    waves = torch.cos(orders[:, None, None] * angle + phases[..., None, None])
    outline = mean + (amplitudes[..., None, None] * waves).sum(dim=-3)
    return radius < outline


@register("bubble")
class Bubble(Corruption):
    """7 to c white discs with a brighter rim; a later disc covers an earlier one. Constants: largest radius, number.

    Sizes are for 224 pixels and are scaled with the shorter side.
    """

    def apply(self, images: Images, constant: tuple[int, int], generators: Generators) -> Images:
        """Compose one layer of opacities a sample, then blend it with white."""
        radius, most = constant
        height, width = images.shape[-2:]
        scale = min(height, width) / REFERENCE_SIZE
        numbers = draw(generators, (1 + 3 * most,), images, normal=False).double().cpu()
        opacity = torch.zeros((len(images), height, width), dtype=images.dtype)
        for layer, row in zip(opacity, numbers):
            count = _whole(row[:1], LEAST_BUBBLES, most)[0]
            for size, y, x in row[1:].reshape(most, 3)[:count].tolist():
                r = (LEAST_RADIUS + math.floor(size * (radius - LEAST_RADIUS + 1))) * scale
                _disc(layer, r + (height - 2 * r) * y, r + (width - 2 * r) * x, r, RIM * scale)
        blend = opacity.to(images.device)[:, None]
        return images * (1 - blend) + blend


def _disc(layer: Float[Tensor, "h w"], y: float, x: float, radius: float, rim: float) -> None:
    """Put one bubble over what the layer of opacities holds."""
    reach = radius + rim + 1
    top, left = max(0, math.floor(y - reach)), max(0, math.floor(x - reach))
    part = layer[top : math.ceil(y + reach) + 1, left : math.ceil(x + reach) + 1]
    rows = torch.arange(top, top + part.shape[0], dtype=torch.float64)[:, None] - y
    columns = torch.arange(left, left + part.shape[1], dtype=torch.float64) - x
    squared = rows**2 + columns**2
    part[squared <= (radius + rim + 0.5) ** 2] = ON_RIM
    part[squared <= (radius + 0.5) ** 2] = INSIDE


@register("black_corner")
class BlackCorner(Corruption):
    """Black outside a centred circle whose radius is c times half of the shorter side."""

    def apply(self, images: Images, constant: float, generators: Generators) -> Images:
        """Keep the disc."""
        height, width = images.shape[-2:]
        y, x = height // 2, width // 2
        radius = int(min(x, y, width - x, height - y) * constant)
        rows = (torch.arange(height, device=images.device) - y).square()[:, None]
        columns = (torch.arange(width, device=images.device) - x).square()
        return images * (rows + columns <= radius**2).to(images)


def _whole(uniform: Float[Tensor, " n"], low: int, high: int) -> list[int]:
    """Whole numbers from `low` to `high`, both included, equally likely; `low` where the range is empty."""
    return (low + (uniform * (max(high, low) - low + 1)).floor()).long().tolist()
