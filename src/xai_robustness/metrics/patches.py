"""Images as a grid of patches: scores of patches, ranks, masks of the first k, fills."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from xai_robustness.types import InputError

REFERENCE_SIZE = 224
PATCH_SIDES = (8, 14, 16)
"""Sides of a patch in pixels of a 224-pixel image; at another size the grid stays, so shares of the image do."""

COUNTS = (0, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60)
"""The 17 numbers of masked patches, for 224 pixels."""

Fill = Literal["class_mean", "global_mean", "blur"]
FILLS: tuple[Fill, ...] = ("class_mean", "global_mean", "blur")
Ranks = Int64[Tensor, "n p"]


def grid_of(patch: int, size: tuple[int, int]) -> tuple[int, int]:
    """Patches along height and width for a patch side given at 224 pixels; at most one a pixel.

    Example:
        >>> grid_of(14, (224, 224)), grid_of(14, (28, 28)), grid_of(8, (14, 14))
        ((16, 16), (16, 16), (14, 14))
    """
    if not 1 <= patch <= REFERENCE_SIZE:
        raise InputError(f"The patch parameter of the masking game must be from 1 to 224 pixels. Got {patch} instead.")
    side = REFERENCE_SIZE // patch
    return min(side, size[0]), min(side, size[1])


def counts_of(patch: int, size: tuple[int, int]) -> tuple[int, ...]:
    """The 17 numbers of patches; where the grid has fewer patches than at 224 pixels, the same shares of it.

    Numbers beyond the patches of a coarse grid are left out.
    """
    rows, columns = grid_of(patch, size)
    full = (REFERENCE_SIZE // patch) ** 2
    return tuple(round(k * rows * columns / full) for k in COUNTS if k <= full)


def places(grid: tuple[int, int], size: tuple[int, int]) -> Int64[Tensor, "h w"]:
    """The number of the patch of every pixel; patches differ by a pixel where the grid does not divide the image."""
    rows = torch.arange(size[0]) * grid[0] // size[0]
    columns = torch.arange(size[1]) * grid[1] // size[1]
    return rows[:, None] * grid[1] + columns


def patch_scores(attributions: Float[Tensor, "n c h w"], grid: tuple[int, int]) -> Float[Tensor, "n p"]:
    """Mean over the patch of the mean magnitude over channels, float64 (N,P)."""
    strength = attributions.double().abs().mean(dim=1).flatten(1)
    where = places(grid, (attributions.shape[-2], attributions.shape[-1])).flatten().to(attributions.device)
    total = strength.new_zeros((len(strength), grid[0] * grid[1]))
    total.index_add_(1, where, strength)
    return total / torch.bincount(where, minlength=total.shape[1])


def ranks_of(scores: Float[Tensor, "n p"]) -> Ranks:
    """Rank of every patch, 0 for the largest score; ties go by place."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def masked(
    images: Float[Tensor, "n c h w"],
    fill: Float[Tensor, "n c h w"],
    ranks: Ranks,
    count: int,
    grid: tuple[int, int],
    top: bool,
) -> Float[Tensor, "n c h w"]:
    """Images whose `count` first (`top`) or last patches are replaced by the fill."""
    gone = ranks < count if top else ranks >= ranks.shape[1] - count
    where = places(grid, (images.shape[-2], images.shape[-1])).to(images.device)
    return torch.where(gone[:, where][:, None], fill, images)


def blurred(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Images without detail: a Gaussian of a tenth of the shorter side, border replicated; the fill `blur`."""
    sigma = min(images.shape[-2:]) / 10
    reach = int(3 * sigma + 0.5)
    place = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(place**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, 1)[:, None]
    rows = functional.conv2d(functional.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])
    both = functional.conv2d(functional.pad(rows, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    return both.view_as(images)


def fills(
    kind: Fill,
    images: Float[Tensor, "n c h w"],
    predicted: Int64[Tensor, " n"],
    global_mean: Float[Tensor, "c h w"],
    class_means: Float[Tensor, "k c h w"],
) -> Float[Tensor, "n c h w"]:
    """What replaces a patch: the mean training image of the predicted class, of all classes, or the blurred image.

    Args:
        kind: one of FILLS.
        images: (N,C,H,W) in [0,1].
        predicted: class predicted on the unmasked image.
        global_mean: mean of the training images.
        class_means: mean of each class's training images; NaN for a class without any, which takes the global mean.
    """
    if kind == "blur":
        return blurred(images)
    if kind == "global_mean":
        return global_mean.to(images).expand_as(images)
    if kind != "class_mean":
        raise InputError(f"The fill parameter of the masking game must be one of {', '.join(FILLS)}. Got {kind!r}.")
    own = class_means.to(images)[predicted]
    return torch.where(own.isnan(), global_mean.to(images), own)
