"""Gradients at many points for each image, in batches over images and points alike."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import target_gradient
from xai_robustness.attribution.lean import lean
from xai_robustness.models.layers import Normalize
from xai_robustness.models.zoo import layer_names, split

Points = Callable[[slice, range], Tensor]
"""(rows, places) -> the points (S,B,C,…) of those images at those places."""

Reduce = Callable[[Tensor, slice, range], Tensor]
"""(gradients (S,B,C,…), rows, places) -> what they add to the images' total, (B,C,…)."""


MANY = 256
"""Passes from which on a model is made lean; ResNet18 at 28 pixels gains from 100 to 200 on."""

PIXELS = 2**19
"""Pixels of a CPU's block of points: in larger ones every step waits for fresh memory."""

AFFINE = (Normalize, nn.Identity, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)


def split_affine(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Cut a model in evaluation mode into its leading affine stages, if there are any, and the rest.

    Points on a straight line stay on a straight line behind them, so those stages need to run for its ends alone.
    """
    last = None
    if isinstance(model, nn.Sequential) and not _has_hooks(model):
        for name in layer_names(model):
            module = model.get_submodule(name)
            if isinstance(module, nn.Sequential) and not _has_hooks(module):
                continue  # its parts have been looked at
            if type(module) not in AFFINE or _has_hooks(module) or _uses_batch_statistics(module):
                break
            last = name
    if last is None:
        return nn.Identity(), model
    assert isinstance(model, nn.Sequential)
    return split(model, last)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _uses_batch_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is None


def pull_back(
    stages: nn.Module, images: Float[Tensor, "b c *positions"], gradient: Float[Tensor, "..."]
) -> Float[Tensor, "b c *positions"]:
    """Gradient with respect to the images from that with respect to the output of `stages`."""
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = stages(x)
    return torch.autograd.grad(output, x, gradient)[0]


def block_size(images: Float[Tensor, "b c *positions"], most: int) -> int:
    """How many points of such images go through a model at once, at most `most`."""
    return min(most, max(1, PIXELS // images[0, 0].numel())) if images.device.type == "cpu" else most


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
        size: most points that go through the model at once.
        points: makes the points of a block.
        reduce: makes their gradients' share of the sum.
    """
    total = torch.zeros_like(images)
    size = block_size(images, size)
    with lean(model) if len(images) * len(places) >= MANY else nullcontext():
        for rows, ranges in blocks(len(images), places, size):
            for some in ranges:
                x = points(rows, some)
                gradients = target_gradient(model, x.flatten(0, 1), targets[rows].repeat(len(some)))
                total[rows] += reduce(gradients.reshape(x.shape), rows, some)
    return total
