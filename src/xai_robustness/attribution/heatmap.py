"""Heatmaps: attributions summed over channels."""

import torch
from jaxtyping import Float
from torch import Tensor


def to_heatmap(attribution: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """Sum over channels, signed."""
    return attribution.sum(1)


def positive(heatmaps: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """A copy with all negative values set to 0."""
    return heatmaps.clamp(min=0)


def normalise(heatmaps: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Divide each heatmap by its largest absolute value, into [-1,1]; a heatmap of zeros stays one.

    Example:
        >>> normalise(torch.tensor([[[1.0, -4.0]], [[0.0, 0.0]]])).tolist()
        [[[0.25, -1.0]], [[0.0, 0.0]]]
    """
    largest = heatmaps.abs().amax((1, 2), keepdim=True)
    return heatmaps / torch.where(largest > 0, largest, 1.0)
