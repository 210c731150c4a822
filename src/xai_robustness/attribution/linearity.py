"""The linear map of a weighted layer with other weights put into it."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.types import InputError


class Linearity:
    """The linear map of a convolution or linear layer, with other weights put into it.

    Args:
        module: Conv1d, Conv2d (padded with zeros) or Linear.

    Raises:
        InputError: any other module or padding.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            raise InputError(f"The rules of weighted layers must get Conv1d, Conv2d or Linear. Got {module} instead.")
        self.weight, self.bias = module.weight, module.bias
        self.options: dict[str, Any] = {}
        if isinstance(module, nn.Linear):
            return
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise InputError(
                f"The padding of convolutions for LRP must be numbers, filled with zeros. Got {module} instead."
            )
        self.options = {key: getattr(module, key) for key in ("stride", "padding", "dilation", "groups")}
        self.convolve = F.conv2d if isinstance(module, nn.Conv2d) else F.conv1d

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output with another weight and bias."""
        return self.convolve(x, weight, bias, **self.options) if self.options else F.linear(x, weight, bias)

    def back(self, share: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """The transposed map: what a gradient `share` of the output is for the input `x`."""
        if not self.options:
            return share @ weight
        o = self.options
        zeros = [0] * len(o["stride"])
        return torch.ops.aten.convolution_backward(
            share, x, weight, None, o["stride"], o["padding"], o["dilation"], False, zeros, o["groups"],
            [True, False, False],
        )[0]  # fmt: skip

    def booked(self, share: Tensor, bias: Tensor | None, more: float) -> Float[Tensor, " b"]:
        """Relevance that a bias (K,) and a further constant take, by sample."""
        axes = tuple(range(2, share.ndim)) if self.options else tuple(range(1, share.ndim - 1))
        each = share.sum(axes) if axes else share
        return each.sum(1) * more if bias is None else each @ (bias + more)
