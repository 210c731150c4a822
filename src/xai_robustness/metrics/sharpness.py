"""Sharpness of heatmaps: how concentrated and how smooth the relevance of an image is.

Every function takes (N,H,W) heatmaps of any sign and unit, on any device, and gives (N,) in float64. No value depends
on the unit of a heatmap, and none wraps around its border. A heatmap that is constant or not finite has none: NaN.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai_robustness.metrics.agreement import min_max
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

Maps = Float[Tensor, "n h w"]
Values = Float[Tensor, " n"]

SHARPNESS: Registry[Callable[[Maps], Values]] = Registry("sharpness")


@SHARPNESS.register("total_variation")
def total_variation(maps: Maps) -> Values:
    """Mean absolute difference of neighbours, right and below, of maps scaled to [0,1]; low is smooth [Margeloiu2020].

    The published measure wraps around the border and depends on the unit; this one does neither. In [0,2]: the mean
    over horizontal pairs plus the mean over vertical pairs.
    """
    scaled = min_max(_checked("total_variation", maps))
    return scaled.diff(dim=2).abs().mean((1, 2)) + scaled.diff(dim=1).abs().mean((1, 2))


@SHARPNESS.register("entropy")
def entropy(maps: Maps) -> Values:
    """Entropy of the shares of |relevance|, as a share of its largest value log(HW); 1 is uniform, 0 a single pixel."""
    shares = _shares("entropy", maps)
    return -torch.special.xlogy(shares, shares).sum(1) / math.log(shares.shape[1])


@SHARPNESS.register("gini")
def gini(maps: Maps) -> Values:
    """Gini index of |relevance| [Hurley2009]: 0 is uniform, 1 - 1/HW a single pixel."""
    ordered = _shares("gini", maps).sort(dim=1).values
    n = ordered.shape[1]
    places = torch.arange(1, n + 1, dtype=ordered.dtype, device=ordered.device)
    return 1 - 2 * (ordered * (n - places + 0.5)).sum(1) / n


@SHARPNESS.register("top1_mass")
def top1_mass(maps: Maps, share: float = 0.01) -> Values:
    """Share in (0,1] of |relevance| that lies in the strongest 1 % of the pixels, at least one.

    Args:
        maps: heatmaps.
        share: the strongest pixels as a share of all.
    """
    if not 0 < share <= 1:
        raise InputError(f"The share parameter of top1_mass must be in (0,1]. Got {share} instead.")
    shares = _shares("top1_mass", maps)
    return shares.topk(max(1, round(share * shares.shape[1])), dim=1).values.sum(1)


@SHARPNESS.register("high_frequency")
def high_frequency(maps: Maps) -> Values:
    """Share in [0,1] of the power spectrum, without its mean, above half of the highest frequency."""
    maps = _checked("high_frequency", maps)
    power = torch.fft.fft2(min_max(maps)).abs().square()
    power[:, 0, 0] = 0
    rows, columns = (torch.fft.fftfreq(n, device=maps.device, dtype=power.dtype).abs() for n in maps.shape[1:])
    high = torch.maximum(rows[:, None], columns[None, :]) > 0.25
    return (power * high).sum((1, 2)) / power.sum((1, 2))


def mask_energy(maps: Maps, masks: Bool[Tensor, "n h w"]) -> Values:
    """Share in [0,1] of the positive relevance that lies inside a mask (a lesion), NaN where either is empty.

    Args:
        maps: heatmaps.
        masks: of the same shape.
    """
    maps = _checked("mask_energy", maps).clamp(min=0)
    if masks.shape != maps.shape:
        raise InputError(
            f"The masks parameter of mask_energy must be of the maps' shape {tuple(maps.shape)}. "
            f"Got {tuple(masks.shape)} instead."
        )
    inside = (maps * masks).sum((1, 2)) / maps.sum((1, 2))
    return torch.where(masks.flatten(1).any(1), inside, torch.nan)


def sharpness(maps: Maps) -> dict[str, Values]:
    """Every registered measure, by name."""
    return {name: SHARPNESS[name](maps) for name in SHARPNESS}


def _checked(caller: str, maps: Maps) -> Maps:
    if maps.ndim != 3 or min(maps.shape[1:]) < 2:
        raise InputError(
            f"The maps parameter of {caller} must be (N,H,W) with at least 2 x 2 pixels. "
            f"Got {tuple(maps.shape)} instead."
        )
    return maps.double()


def _shares(caller: str, maps: Maps) -> Float[Tensor, "n p"]:
    """|relevance| of each pixel as a share of its map; NaN where the map is constant or not finite."""
    flat = _checked(caller, maps).abs().flatten(1)
    signed = maps.flatten(1)
    varies = signed.isfinite().all(1) & (signed.amax(1) > signed.amin(1))
    return torch.where(varies[:, None], flat / flat.sum(1, keepdim=True), torch.nan)
