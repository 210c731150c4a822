"""Convolutions with packed weights and channels last: a CPU's library rearranges neither weights nor images each time.

The operations are those that torch's own compiler puts in place of convolutions.
"""

from collections.abc import Mapping
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
