"""Convolutions of one weight on many batches, with channels last: packed weights, or one matrix on tiny maps.

With packed weights a CPU's library rearranges neither weights nor images each time; the operations are those that
torch's own compiler puts in place of convolutions.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from xai_robustness.attribution.rules import LAST


def packable(x: Tensor, weight: Tensor, options: Mapping[str, Any]) -> bool:
    """Whether a 2-D convolution of float32 images on this machine can have its weights packed; one group alone."""
    plain = x.ndim == 4 and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return plain and options["groups"] == 1 and torch.backends.mkldnn.is_available() and not torch.is_grad_enabled()


class Packed:
    """A 2-D convolution, or its transposed map, with the weight (K,C,h,w) packed.

    Args:
        x: an example of the input, (B,C,H,W), or (B,K,H,W) for the transposed map.
        weight: of the convolution; the transposed map takes it mirrored.
        options: stride, padding, dilation of the convolution.
        transposed: whether to compute the gradient of the input from that of the output; see `transposable`.
    """

    def __init__(self, x: Tensor, weight: Tensor, options: Mapping[str, Any], transposed: bool) -> None:
        self.stride, self.dilation = list(options["stride"]), list(options["dilation"])
        self.padding, own = list(options["padding"]), weight.detach()
        if transposed:
            self.padding = [k - 1 - p for k, p in zip(weight.shape[2:], options["padding"])]
            own = own.flip(2, 3).transpose(0, 1).contiguous()
        pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        self.weight: Tensor = pack(own.to_mkldnn(), self.padding, self.stride, self.dilation, 1, list(x.shape))

    @staticmethod
    def transposable(weight: Tensor, options: Mapping[str, Any]) -> bool:
        """Whether the transposed map is itself a convolution with stride 1 and a padding of at least 0."""
        ones = all(step == 1 for step in (*options["stride"], *options["dilation"]))
        return ones and all(k - 1 >= p for k, p in zip(weight.shape[2:], options["padding"]))

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The output, channels last."""
        last = x.contiguous(memory_format=LAST)
        return torch.ops.mkldnn._convolution_pointwise(
            last, self.weight, bias, self.padding, self.stride, self.dilation, 1, "none", [], ""
        )


class Dense:
    """A 2-D convolution over maps of few positions as one matrix, which multiplies no padding.

    Args:
        shape: of the input, (B,C,H,W).
        weight: (K,C,h,w).
        options: stride, padding, dilation of the convolution.
    """

    def __init__(self, shape: Sequence[int], weight: Tensor, options: Mapping[str, Any]) -> None:
        taps = weight.detach().permute(2, 3, 1, 0).contiguous()
        self.places, self.found = tuple(shape[2:]), _output_size(shape, weight, options)
        self.channels, self.filters = weight.shape[1], weight.shape[0]
        matrix = weight.new_zeros(*self.places, self.channels, *self.found, self.filters)
        for to in product(*map(range, self.found)):
            for tap in product(*map(range, taps.shape[:2])):
                steps = zip(to, tap, options["stride"], options["padding"], options["dilation"])
                at = tuple(i * stride - padding + t * dilation for i, t, stride, padding, dilation in steps)
                if all(0 <= a < n for a, n in zip(at, self.places)):
                    matrix[(*at, slice(None), *to)] += taps[tap]
        self.matrix = matrix.flatten(0, 2).flatten(1)

    @staticmethod
    def pays(shape: Sequence[int], weight: Tensor, options: Mapping[str, Any]) -> bool:
        """Whether the matrix needs at most two thirds of the convolution's products."""
        return 3 * shape[2] * shape[3] <= 2 * weight.shape[2] * weight.shape[3]

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The output, channels last."""
        found = x.new_empty(len(x), self.filters, *self.found).contiguous(
            memory_format=LAST
        )  # no view: it may be changed
        places = found.permute(0, 2, 3, 1)
        torch.mm(x.permute(0, 2, 3, 1).flatten(1), self.matrix, out=places.flatten(1))
        if bias is not None:
            places.add_(bias)
        return found

    def back(self, share: Tensor) -> Tensor:
        """The transposed map."""
        rows = share.permute(0, 2, 3, 1).flatten(1) @ self.matrix.T
        return rows.view(len(share), *self.places, self.channels).permute(0, 3, 1, 2)


def _output_size(shape: Sequence[int], weight: Tensor, options: Mapping[str, Any]) -> tuple[int, ...]:
    sizes = zip(shape[2:], weight.shape[2:], options["stride"], options["padding"], options["dilation"])
    return tuple((n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, padding, dilation in sizes)
