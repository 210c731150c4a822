"""The linear map of a weighted layer with another weight put into it."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.models.small_maps import back_by_products, by_taps, convolve_by_products, is_plain, products_pay
from xai_robustness.types import InputError


class Linearity:
    """The linear map of a convolution or linear layer with a weight put into it.

    Args:
        module: Conv1d, Conv2d (padded with zeros) or Linear.
        weight: of the shape of the module's weight, or for one channel; the module's if none is given.

    Raises:
        InputError: any other module or padding.
    """

    def __init__(self, module: nn.Module, weight: Tensor | None = None) -> None:
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            raise InputError(f"The rules of weighted layers must get Conv1d, Conv2d or Linear. Got {module} instead.")
        self.module = module
        self.weight = module.weight.detach() if weight is None else weight
        self.bias = self.weight.new_zeros(len(self.weight)) if module.bias is None else module.bias.detach()
        self.options: dict[str, Any] = {}
        if isinstance(module, nn.Linear):
            return
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise InputError(
                f"The padding of convolutions for LRP must be numbers, filled with zeros. Got {module} instead."
            )
        self.options = {key: getattr(module, key) for key in ("stride", "padding", "dilation", "groups")}
        self.convolve = F.conv2d if isinstance(module, nn.Conv2d) else F.conv1d

    def with_weight(self, weight: Tensor) -> "Linearity":
        """The same layer with another weight."""
        return Linearity(self.module, weight)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The map of an input, and a bias added."""
        if not self.options:
            return F.linear(x, self.weight, bias)
        if small := self._on_small_maps(x):
            return convolve_by_products(x, small, self.weight, bias)
        return self.convolve(x, self.weight, bias, **self.options)

    def back(self, share: Tensor, x: Tensor) -> Tensor:
        """The transposed map: what a gradient `share` of the output is for the input `x`."""
        if not self.options:
            return share @ self.weight
        if small := self._on_small_maps(x):
            return back_by_products(share, small, self.weight, x.shape[2:])
        o = self.options
        zeros = [0] * len(o["stride"])
        return torch.ops.aten.convolution_backward(
            share, x, self.weight, None, o["stride"], o["padding"], o["dilation"], False, zeros, o["groups"],
            [True, False, False],
        )[0]  # fmt: skip

    def _on_small_maps(self, x: Tensor) -> nn.Conv2d | None:
        """The convolution, its weight made ready, where products pay for an input."""
        if not is_plain(self.module) or not products_pay(self.module, self.weight, x):
            return None
        self.weight = by_taps(self.weight)
        return self.module

    def booked(self, share: Tensor, bias: Tensor) -> Float[Tensor, " b"]:
        """Relevance that a bias (K,) takes, by sample."""
        axes = tuple(range(2, share.ndim)) if self.options else tuple(range(1, share.ndim - 1))
        return (share.sum(axes) if axes else share) @ bias
