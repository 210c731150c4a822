"""One-dimensional networks for electrocardiograms, as networks for images of height 1: kernels are (1,k).

So every method that works on images works on signals. A checkpoint of a true 1-D network fits after its convolutions'
weights (O,I,k) are given the extra axis, (O,I,1,k).
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.models.layers import Add


class GlobalMaxPool(nn.MaxPool2d):
    """Largest value over all positions, (B,K,H,W) to (B,K,1,1)."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k 1 1"]:
        """Pool."""
        return F.adaptive_max_pool2d(x, 1)


class ConcatPool(nn.Module):
    """Global maximum and mean side by side, (B,K,H,W) to (B,2K,1,1)."""

    def __init__(self) -> None:
        super().__init__()
        self.max, self.mean = GlobalMaxPool(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k2 1 1"]:
        """Pool."""
        return torch.cat([self.max(x), self.mean(x)], 1)


class XBlock(nn.Module):
    """Residual block of xResNet [He2019]: the shortcut pools before its 1 x 1 convolution, and starts as identity.

    Args:
        n_in: input channels.
        width: channels inside.
        expansion: output channels in units of `width`; 1 is a basic block of two convolutions, 4 a bottleneck.
        stride: of the block.
        kernel: length of the convolutions along time.
    """

    def __init__(self, n_in: int, width: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        n_out = width * expansion
        if expansion == 1:
            convs = [_unit(n_in, width, kernel, stride), _unit(width, width, kernel, 1, act=False)]
        else:
            convs = [
                _unit(n_in, width, 1, 1),
                _unit(width, width, kernel, stride),
                _unit(width, n_out, 1, 1, act=False),
            ]
        last: Any = convs[-1][1]
        nn.init.zeros_(last.weight)
        self.convs = nn.Sequential(*convs)
        shortcut: list[nn.Module] = [nn.AvgPool2d((1, stride), ceil_mode=True)] if stride > 1 else []
        if n_in != n_out:
            shortcut += list(_unit(n_in, n_out, 1, 1, act=False))
        self.shortcut = nn.Sequential(*shortcut) if shortcut else nn.Identity()
        self.add, self.relu = Add(), nn.ReLU()

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k2 h w2"]:
        """relu(convs(x) + shortcut(x))."""
        return self.relu(self.add(self.convs(x), self.shortcut(x)))


def _unit(n_in: int, n_out: int, kernel: int, stride: int, act: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, (1, kernel), (1, stride), (0, kernel // 2), bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), *([nn.ReLU()] if act else []))


def xresnet1d(
    depths: Sequence[int], widths: Sequence[int], expansion: int, stem: Sequence[int], kernel: int, dropout: float
) -> Callable[[int, int, object], "OrderedDict[str, nn.Module]"]:
    """A function that builds the stages of an xResNet for signals.

    Args:
        depths: blocks of each of the four layers.
        widths: channels of each layer, before `expansion`.
        expansion: 1 for basic blocks, 4 for bottlenecks.
        stem: channels of the stem's convolutions, the first of which halves the length.
        kernel: length of the convolutions.
        dropout: rate before the last layer.
    """

    def stages(channels: int, n_classes: int, _: object) -> "OrderedDict[str, nn.Module]":
        sizes = [channels, *stem]
        units = [_unit(n_in, n_out, kernel, 2 if i == 0 else 1) for i, (n_in, n_out) in enumerate(zip(sizes, stem))]
        result: OrderedDict[str, nn.Module] = OrderedDict(
            stem=nn.Sequential(*units), maxpool=nn.MaxPool2d((1, 3), (1, 2), (0, 1))
        )
        n_in = stem[-1]
        for i, (depth, width) in enumerate(zip(depths, widths), start=1):
            blocks = []
            for j in range(depth):
                blocks.append(XBlock(n_in, width, expansion, 2 if i > 1 and j == 0 else 1, kernel))
                n_in = width * expansion
            result[f"layer{i}"] = nn.Sequential(*blocks)
        result.update(pool=ConcatPool(), norm=nn.BatchNorm2d(2 * n_in), flatten=nn.Flatten(1))
        result.update(dropout=nn.Dropout(dropout), fc=nn.Linear(2 * n_in, n_classes))
        return result

    return stages


ECG_MODELS = {
    "xresnet1d50": xresnet1d((3, 4, 6, 3), (64, 64, 64, 64), 4, (32, 32, 64), 5, 0.5),
    "xresnet1d_small": xresnet1d((1, 1, 1, 1), (32, 32, 64, 64), 1, (16, 32), 5, 0.2),
}
"""xresnet1d50 of the PTB-XL benchmark [Strodthoff2021], and a small one for a laptop."""
