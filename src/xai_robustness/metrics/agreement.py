"""Agreement of two heatmaps of the same image: SSIM, Spearman correlation, overlap of the strongest pixels.

Every function takes two batches (N,H,W) of signed heatmaps on any device and gives (N,) in float64. No function depends
on the unit of a heatmap: maps of magnitude 1e-12 agree as the same maps at 1 do. A pair has no agreement, and the value
is NaN, where one of its maps is degenerate: constant, or not finite; for `ssim` also one without positive values. Leave
such pairs out of averages and count them.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from xai_robustness.registry import Registry
from xai_robustness.types import InputError

Maps = Float[Tensor, "n h w"]
Values = Float[Tensor, " n"]
Agreement = Callable[[Maps, Maps], Values]

AGREEMENTS: Registry[Agreement] = Registry("agreement")

DEFAULT = ("spearman", "ssim", "topk_intersection")
"""What is measured unless others are named."""

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation of the Gaussian window of SSIM, in pixels."""


@AGREEMENTS.register("ssim")
def ssim(a: Maps, b: Maps) -> Values:
    """Mean structural similarity in [-1,1] of the positive parts, each scaled to [0,1] [Wang2004].

    Gaussian window of 11 pixels with sigma 1.5, K = (0.01, 0.03), windows inside the map only. Maps smaller than the
    window raise InputError.
    """
    a, b = _pair("ssim", a, b)
    if min(a.shape[1:]) < WINDOW:
        raise InputError(
            f"The heatmaps of ssim must be at least {WINDOW} pixels high and wide. Got {tuple(a.shape[1:])} instead."
        )
    x, y = min_max(a.clamp(min=0)), min_max(b.clamp(min=0))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y, cov = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2, _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * cov + c2) / (var_x + var_y + c2)).mean(dim=(1, 2))


@AGREEMENTS.register("spearman")
def spearman(a: Maps, b: Maps) -> Values:
    """Spearman's rank correlation in [-1,1] of the signed pixels, ties at their mean rank."""
    a, b = _pair("spearman", a, b)
    x, y = _centred_ranks(a.flatten(1)), _centred_ranks(b.flatten(1))
    correlation = (x * y).sum(dim=1) / (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    return _where(_varies(a) & _varies(b), correlation)


@AGREEMENTS.register("topk_intersection")
def topk_intersection(a: Maps, b: Maps, share: float = 0.1) -> Values:
    """Share in [0,1] of the strongest pixels of a that are among the strongest of b; chance level is `share`.

    Args:
        a: signed heatmaps.
        b: signed heatmaps.
        share: the strongest pixels as a share of all, in (0,1]; at least one pixel. Pixels tied for the last places
            share them in equal parts, so that the value does not depend on the order of pixels.

    Returns:
        (N,), NaN where undefined.
    """
    if not 0 < share <= 1:
        raise InputError(f"The share parameter of topk_intersection must be in (0,1]. Got {share} instead.")
    a, b = _pair("topk_intersection", a, b)
    k = max(1, round(share * a[0].numel())) if len(a) else 1
    common = torch.minimum(_membership(a.flatten(1), k), _membership(b.flatten(1), k)).sum(dim=1) / k
    return _where(_varies(a) & _varies(b), common)


def agreement(a: Maps, b: Maps, names: Sequence[str] = DEFAULT) -> dict[str, Values]:
    """The named agreements of each pair, by name."""
    return {name: AGREEMENTS[name](a, b) for name in names}


def min_max(maps: Maps) -> Maps:
    """Scale each map to [0,1] by its own minimum and maximum; NaN where it is constant or not finite."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return _where(_varies(maps)[:, None, None], (maps - low) / (high - low))


def _pair(caller: str, a: Maps, b: Maps) -> tuple[Maps, Maps]:
    if a.shape != b.shape or a.ndim != 3:
        raise InputError(
            f"The heatmaps of {caller} must be two tensors of one shape (N,H,W). "
            f"Got {tuple(a.shape)} and {tuple(b.shape)} instead."
        )
    return a.double(), b.double()


def _varies(maps: Maps) -> Bool[Tensor, " n"]:
    flat = maps.flatten(1)
    return flat.isfinite().all(dim=1) & (flat.amax(dim=1) > flat.amin(dim=1))


def _where(defined: Bool[Tensor, "..."], values: Tensor) -> Tensor:
    return torch.where(defined, values, torch.nan)


def _blur(maps: Maps) -> Maps:
    places = torch.arange(WINDOW, device=maps.device, dtype=maps.dtype) - WINDOW // 2
    kernel = torch.exp(-(places**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    rows = functional.conv2d(maps[:, None], kernel[None, None, :, None])
    return functional.conv2d(rows, kernel[None, None, None, :])[:, 0]


def _centred_ranks(flat: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Mean ranks minus their mean, in units of the number of pixels."""
    ordered = flat.sort(dim=1).values
    below = torch.searchsorted(ordered, flat.contiguous())
    through = torch.searchsorted(ordered, flat.contiguous(), right=True)
    ranks = (below + through).double() / (2 * flat.shape[1])
    return ranks - ranks.mean(dim=1, keepdim=True)


def _membership(flat: Float[Tensor, "n p"], k: int) -> Float[Tensor, "n p"]:
    """Share in [0,1] of each pixel in the k strongest places, which sum to k."""
    threshold = flat.topk(k, dim=1).values[:, -1:]
    above, tied = (flat > threshold).double(), (flat == threshold).double()
    return above + tied * (k - above.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True)
