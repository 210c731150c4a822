"""Gradients at many points for each image, in batches over images and points alike."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import target_gradient

Points = Callable[[slice, range], Tensor]
"""(rows, places) -> the points (S,B,C,…) of those images at those places."""

Reduce = Callable[[Tensor, slice, range], Tensor]
"""(gradients (S,B,C,…), rows, places) -> what they add to the images' total, (B,C,…)."""


def blocks(n_rows: int, places: range, size: int) -> list[tuple[slice, list[range]]]:
    """Cut images times places into blocks of at most `size` points: (rows, ranges of places) for each run of rows.

    Example:
        >>> blocks(3, range(5), 6)
        [(slice(0, 3, None), [range(0, 2), range(2, 4), range(4, 5)])]
    """
    step = min(n_rows, size)
    found = []
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        width = max(1, size // (rows.stop - rows.start))
        found.append((rows, [places[i : i + width] for i in range(0, len(places), width)]))
    return found


def accumulate(
    model: nn.Module,
    images: Float[Tensor, "b c *positions"],
    targets: Int64[Tensor, " b"],
    places: range,
    size: int,
    points: Points,
    reduce: Reduce,
) -> Float[Tensor, "b c *positions"]:
    """Sum over all places of what `reduce` makes of the gradients at `points`.

    Args:
        model: classifier in evaluation mode.
        images: (B,C,…).
        targets: (B,) classes.
        places: numbers of the points of each image.
        size: points that go through the model at once.
        points: makes the points of a block.
        reduce: makes their gradients' share of the sum.
    """
    total = torch.zeros_like(images)
    for rows, ranges in blocks(len(images), places, size):
        for some in ranges:
            x = points(rows, some)
            gradients = target_gradient(model, x.flatten(0, 1), targets[rows].repeat(len(some)))
            total[rows] += reduce(gradients.reshape(x.shape), rows, some)
    return total
