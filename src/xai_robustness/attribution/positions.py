"""Positions of a layer's output: channels first, with the token grid of transformers inferred."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xai_robustness.types import InputError

MAX_PREFIX_TOKENS = 8
"""Most leading tokens (class, distillation, registers) that are looked for before a grid."""

MODES = {1: "linear", 2: "bilinear"}


def channels_first(
    activation: Float[Tensor, "b ..."], image_shape: Sequence[int], caller: str, layer: str, tokens_last: bool = False
) -> Float[Tensor, "b k ..."]:
    """A layer's output as (B,K,H,W), or (B,K,T) for signals; tokens lose their leading class tokens.

    Args:
        activation: output of the layer.
        image_shape: (C,H,W) or (C,T) of the model's input.
        caller: who asks, for the error.
        layer: name of the layer, for the error.
        tokens_last: three axes are (B,K,T), not (B,T,K).

    Raises:
        InputError: an output without positions.
    """
    spatial = len(image_shape) - 1
    if activation.ndim == spatial + 2:
        return activation
    if spatial == 2 and activation.ndim == 3:
        tokens = activation if tokens_last else activation.transpose(1, 2)
        grid = token_grid(tokens.shape[2], image_shape[1], image_shape[2])
        if grid is not None:
            return tokens[:, :, tokens.shape[2] - grid[0] * grid[1] :].unflatten(2, grid)
    wanted = "(B,K,T)" if spatial == 1 else "(B,K,H,W), or a grid of tokens (B,T,K)"
    raise InputError(
        f"The layer parameter of {caller} must be a layer with positions {wanted}. "
        f"Got '{layer}' of shape {tuple(activation.shape)} instead."
    )


def token_grid(n_tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of the patches among `n_tokens`, with the image's aspect ratio; None where nothing fits.

    The fewest leading tokens that leave a grid are taken for class tokens.

    Example:
        >>> token_grid(197, 224, 224), token_grid(198, 224, 224), token_grid(9, 28, 56), token_grid(12, 28, 28)
        ((14, 14), (14, 14), (2, 4), (3, 3))
    """
    for prefix in range(min(MAX_PREFIX_TOKENS, n_tokens - 1) + 1):
        rows = math.sqrt((n_tokens - prefix) * height / width)
        grid = round(rows), round(rows * width / height)
        if grid[0] * grid[1] == n_tokens - prefix and grid[0] * width == grid[1] * height:
            return grid
    return None


def upsample(maps: Float[Tensor, "b ..."], image_shape: Sequence[int]) -> Float[Tensor, "b 1 ..."]:
    """Interpolate maps (B,H,W) or (B,T) linearly to the size of the images, with a channel axis."""
    mode = MODES[len(image_shape) - 1]
    return F.interpolate(maps[:, None], size=tuple(image_shape[1:]), mode=mode, align_corners=False)
