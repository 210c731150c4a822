"""The linear map of a weighted layer with other weights put into it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.attribution.packed import Dense, Packed, packable
from xai_robustness.attribution.rules import LAST
from xai_robustness.types import InputError


class Linearity:
    """The linear map of a convolution or linear layer, with other weights put into it.

    Weights are kept in the layout that the CPU computes with from their first use on, so they must not change.

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
        self._packed: dict[tuple[Any, ...], tuple[Tensor, Any]] = {}
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
        if not self.options:
            return F.linear(x, weight, bias)
        if packable(x, weight, self.options):
            return (self._dense(x, weight) or self._pack(x, weight, transposed=False))(x, bias)
        return self.convolve(x, weight, bias, **self.options)

    def back(self, share: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """The transposed map: what a gradient `share` of the output is for the input `x`."""
        if not self.options:
            return share @ weight
        o = self.options
        if packable(share, weight, o):
            if dense := self._dense(x, weight):
                return dense.back(share)
            if Packed.transposable(weight, o):
                return self._pack(share, weight, transposed=True)(share, None)
            share, x = (each.contiguous(memory_format=LAST) for each in (share, x))
        zeros = [0] * len(o["stride"])
        return torch.ops.aten.convolution_backward(
            share, x, weight, None, o["stride"], o["padding"], o["dilation"], False, zeros, o["groups"],
            [True, False, False],
        )[0]  # fmt: skip

    def _pack(self, x: Tensor, weight: Tensor, transposed: bool) -> Packed:
        return self._kept((id(weight), transposed), weight, lambda: Packed(x, weight, self.options, transposed))

    def _dense(self, x: Tensor, weight: Tensor) -> Dense | None:
        if not Dense.pays(x.shape, weight, self.options):
            return None
        return self._kept((id(weight), *x.shape[2:]), weight, lambda: Dense(x.shape, weight, self.options))

    def _kept(self, key: tuple[Any, ...], weight: Tensor, make: Callable[[], Any]) -> Any:
        """Made at its first use; the weight is kept beside it, so that its id stays its own."""
        if key not in self._packed:
            self._packed[key] = weight, make()
        return self._packed[key][1]

    def booked(self, share: Tensor, bias: Tensor | None, more: float) -> Float[Tensor, " b"]:
        """Relevance that a bias (K,) and a further constant take, by sample."""
        axes = tuple(range(2, share.ndim)) if self.options else tuple(range(1, share.ndim - 1))
        each = share.sum(axes) if axes else share
        return each.sum(1) * more if bias is None else each @ (bias + more)
