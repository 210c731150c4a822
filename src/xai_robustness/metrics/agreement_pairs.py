"""More agreements and distances of two heatmaps, registered beside those of `agreement`; the same conventions hold.

`l2`, `rmse` and `wasserstein` are distances, 0 for equal maps; all others are 1 there.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from xai_robustness.metrics.agreement import (
    AGREEMENTS,
    Maps,
    Values,
    _pair,
    _varies,
    _where,
    min_max,
    topk_intersection,
)

DISTANCES = ("l2", "rmse", "wasserstein")
"""Names of the entries that fall with agreement."""

PATCHES = 14
"""Patches a side whose means Kendall's correlation ranks."""


@AGREEMENTS.register("density")
def density(a: Maps, b: Maps) -> Values:
    """1 - Jensen-Shannon distance (natural logarithm) of the positive parts after a 3 x 3 mean, as densities.

    In [1 - sqrt(ln 2), 1]: 0.167 for maps that share no place [Repetto2026].
    """
    a, b = _pair("density", a, b)
    x, y = (_density(functional.avg_pool2d(min_max(m.clamp(min=0))[:, None], 3, 1)[:, 0]) for m in (a, b))
    middle = (x + y) / 2
    divergence = (_relative(x, middle) + _relative(y, middle)) / 2
    return 1 - divergence.clamp(min=0).sqrt()


@AGREEMENTS.register("l2")
def l2(a: Maps, b: Maps) -> Values:
    """Euclidean norm of the difference of the positive parts, each scaled to [0,1]; at most the root of the pixels."""
    a, b = _pair("l2", a, b)
    return (min_max(a.clamp(min=0)) - min_max(b.clamp(min=0))).flatten(1).norm(dim=1)


@AGREEMENTS.register("rmse")
def rmse(a: Maps, b: Maps) -> Values:
    """Root mean square difference of the positive parts, each scaled to [0,1], in [0,1]."""
    return l2(a, b) / max(1, a[0].numel() if len(a) else 1) ** 0.5


@AGREEMENTS.register("pearson")
def pearson(a: Maps, b: Maps) -> Values:
    """Pearson's correlation in [-1,1] of the signed pixels."""
    a, b = _pair("pearson", a, b)
    x, y = (_unit(m.flatten(1)) for m in (a, b))
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    return _where(_varies(a) & _varies(b), functional.cosine_similarity(x, y, dim=1, eps=1e-300))


@AGREEMENTS.register("cosine")
def cosine(a: Maps, b: Maps) -> Values:
    """Cosine in [-1,1] of the angle between the signed maps."""
    a, b = _pair("cosine", a, b)
    value = functional.cosine_similarity(_unit(a.flatten(1)), _unit(b.flatten(1)), dim=1, eps=1e-300)
    return _where(_varies(a) & _varies(b), value)


@AGREEMENTS.register("kendall")
def kendall(a: Maps, b: Maps) -> Values:
    """Kendall's tau-b in [-1,1] of the means of 14 x 14 patches (of the pixels of smaller maps)."""
    a, b = _pair("kendall", a, b)
    side = (min(PATCHES, a.shape[1]), min(PATCHES, a.shape[2]))
    x, y = (functional.adaptive_avg_pool2d(_unit(m.flatten(1)).view_as(m), side).flatten(1) for m in (a, b))
    values = [_tau(p, q) for p, q in zip(x, y)]
    tau = torch.stack(values) if values else a.new_zeros(0)
    return _where(_varies(a) & _varies(b), tau)


@AGREEMENTS.register("topk_jaccard")
def topk_jaccard(a: Maps, b: Maps, share: float = 0.1) -> Values:
    """Jaccard index in [0,1] of the strongest pixels: what both have over what either has."""
    common = topk_intersection(a, b, share)  # type: ignore[call-arg]
    return common / (2 - common)


@AGREEMENTS.register("wasserstein")
def wasserstein(a: Maps, b: Maps) -> Values:
    """Earth mover's distance of the positive parts as densities, along rows and along columns, mean of both.

    In units of the side of the map, in [0,1]; the distance between the marginals bounds the one between the maps.
    """
    a, b = _pair("wasserstein", a, b)
    x, y = (_density(min_max(m.clamp(min=0))) for m in (a, b))
    found = [(x.sum(axis).cumsum(1) - y.sum(axis).cumsum(1)).abs().mean(dim=1) for axis in (1, 2)]
    return (found[0] + found[1]) / 2


def _density(maps: Maps) -> Maps:
    return maps / maps.sum(dim=(1, 2), keepdim=True)


def _relative(x: Maps, middle: Maps) -> Values:
    return torch.where(x > 0, x * (x / middle).log(), x * 0).sum(dim=(1, 2))


def _unit(flat: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Divided by the largest magnitude, so that squares of tiny values do not vanish."""
    return flat / flat.abs().amax(dim=1, keepdim=True)


def _tau(x: Float[Tensor, " p"], y: Float[Tensor, " p"]) -> Tensor:
    signs_x, signs_y = (torch.sign(v[:, None] - v) for v in (x, y))
    return (signs_x * signs_y).sum() / (signs_x.abs().sum() * signs_y.abs().sum()).sqrt()
