"""MedViT as a sequence of stages: convolution blocks, and transformer blocks that also convolve [Manzari2023].

Parameters have the names of the published checkpoints. Every operation is a module used once. The paper's patch
momentum changer is an augmentation of training, no part of the network.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from xai_robustness.models.gated import Scale
from xai_robustness.models.layers import Add, Concatenate
from xai_robustness.models.transformers import AttendTo

HEAD_DIM = 32
MIX_RATIO = 0.75
"""Share of a transformer block's channels that attend; the others convolve."""

REDUCTIONS = (8, 4, 2, 1)
"""Of keys and values by stage: runs of so many tokens squared are averaged."""


class ConvolutionBlock(nn.Module):
    """Efficient convolution block: x + mhca(x), then x + local feed forward(norm(x)), after an embedding.

    Args:
        n_in: input channels.
        n_out: output channels, a multiple of HEAD_DIM.
        stride: 2 halves the resolution.
        drop: rate at which a sample skips the convolution, in training.
    """

    def __init__(self, n_in: int, n_out: int, stride: int = 1, drop: float = 0.0) -> None:
        super().__init__()
        self.shrinks = stride == 2
        self.patch_embed = embedding(n_in, n_out, stride)
        self.mhca = head_convolutions(n_out)
        self.attention_path_dropout = StochasticDepth(drop, "row")
        self.add1 = Add()
        self.conv = LocalFeedForward(n_out, 3)
        self.norm = nn.BatchNorm2d(n_out)
        self.add2 = Add()

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k2 h2 w2"]:
        """The block's output."""
        x = self.patch_embed(x)
        x = self.add1(x, self.attention_path_dropout(self.mhca(x)))
        return self.add2(x, self.conv(self.norm(x)))


class TransformerBlock(nn.Module):
    """Local transformer block: attention, convolution of a projection, both side by side, local feed forward.

    Args:
        n_in: input channels.
        n_out: output channels, split by MIX_RATIO into such that attend and such that convolve.
        stride: 2 halves the resolution.
        reduction: runs of reduction² tokens are averaged to keys and values.
        drop: rate at which a sample skips a branch, in training; each branch has its share of it.
    """

    def __init__(self, n_in: int, n_out: int, stride: int = 1, reduction: int = 1, drop: float = 0.0) -> None:
        super().__init__()
        self.shrinks = stride == 2
        attending = attending_channels(n_out)
        self.patch_embed = embedding(n_in, attending, stride)
        self.norm1 = nn.BatchNorm2d(attending)
        self.e_mhsa = ReducedAttention(attending, reduction)
        self.mhsa_path_dropout = StochasticDepth(drop * MIX_RATIO, "row")
        self.add1 = Add()
        self.projection = embedding(attending, n_out - attending)
        self.mhca = head_convolutions(n_out - attending)
        self.mhca_path_dropout = StochasticDepth(drop * (1 - MIX_RATIO), "row")
        self.add2 = Add()
        self.cat = Concatenate(1)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.conv = LocalFeedForward(n_out, 2)
        self.add3 = Add()

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k2 h2 w2"]:
        """The block's output."""
        x = self.patch_embed(x)
        tokens = self.norm1(x).flatten(2).transpose(1, 2)
        attended = self.mhsa_path_dropout(self.e_mhsa(tokens))
        x = self.add1(x, attended.transpose(1, 2).unflatten(2, x.shape[2:]))
        local = self.projection(x)
        local = self.add2(local, self.mhca_path_dropout(self.mhca(local)))
        x = self.cat(x, local)
        return self.add3(x, self.conv(self.norm2(x)))


class ReducedAttention(nn.Module):
    """Self-attention of tokens (B,T,K) whose keys and values are means over runs of tokens.

    Args:
        width: K, a multiple of HEAD_DIM.
        reduction: runs are of reduction² tokens; what does not fill a run is left out of keys and values.
    """

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.attend = AttendTo(width // HEAD_DIM)
        self.proj = nn.Linear(width, width)
        self.sr = nn.AvgPool1d(reduction**2) if reduction > 1 else nn.Identity()
        self.norm = nn.BatchNorm1d(width) if reduction > 1 else nn.Identity()

    def forward(self, tokens: Float[Tensor, "b t k"]) -> Float[Tensor, "b t k"]:
        """The tokens' new values."""
        fewer = self.norm(self.sr(tokens.transpose(1, 2))).transpose(1, 2)
        return self.proj(self.attend(self.q(tokens), self.k(fewer), self.v(fewer)))


class LocalFeedForward(nn.Module):
    """x + conv(x): two 1 x 1 convolutions with a depth-wise one and a gate of channels between [Li2021].

    Args:
        width: channels.
        expansion: channels inside, in units of `width`, and units inside of the gate.
    """

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(width, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            ChannelGate(hidden, expansion),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.add = Add()

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """X + conv(x)."""
        return self.add(x, self.conv(x))


class ChannelGate(nn.Module):
    """Squeeze and excitation by linear layers [Hu2018].

    Args:
        width: channels.
        squeezed: units between.
    """

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(width, squeezed), nn.ReLU(), nn.Linear(squeezed, width), nn.Hardsigmoid())
        self.scale = Scale()

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """The gated channels."""
        return self.scale(x, self.fc(self.avg_pool(x).flatten(1))[:, :, None, None])


def attending_channels(width: int) -> int:
    """MIX_RATIO of `width`, as the nearest multiple of 32 that is not over a tenth smaller."""
    wanted = int(width * MIX_RATIO)
    near = max(32, (wanted + 16) // 32 * 32)
    return near if near >= 0.9 * wanted else near + 32


def embedding(n_in: int, n_out: int, stride: int = 1) -> nn.Module:
    """Means over 2 x 2 positions at stride 2, then a 1 x 1 convolution; nothing where the shape stays."""
    if stride == 1 and n_in == n_out:
        return nn.Identity()
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        avgpool=pool, conv=nn.Conv2d(n_in, n_out, 1, bias=False), norm=nn.BatchNorm2d(n_out)
    )
    return nn.Sequential(layers)


def head_convolutions(width: int) -> nn.Sequential:
    """Multi-head convolutional attention: a convolution in groups of HEAD_DIM channels, then one across them."""
    conv = nn.Conv2d(width, width, 3, padding=1, groups=width // HEAD_DIM, bias=False)
    last = nn.Conv2d(width, width, 1, bias=False)
    return nn.Sequential(OrderedDict(group_conv3x3=conv, norm=nn.BatchNorm2d(width), act=nn.ReLU(), projection=last))


def _unit(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(n_out), act=nn.ReLU()))


def ends_of_stages(features: nn.Module) -> list[str]:
    """Names of the blocks after which the resolution changes, and the last; none where these are no MedViT's."""
    blocks = list(features.named_children())
    if not all(isinstance(block, ConvolutionBlock | TransformerBlock) for _, block in blocks):
        return []
    ends = [name for (name, _), (_, after) in pairwise(blocks) if after.shrinks]
    return ends + [name for name, _ in blocks[-1:]]


def medvit(
    depths: Sequence[int],
    drop: float,
    stem_widths: Sequence[int] = (64, 32, 64),
    widths: Sequence[tuple[int, int]] = ((96, 96), (192, 256), (384, 512), (768, 1024)),
    group: int = 5,
) -> Callable[[int, int, str], "OrderedDict[str, nn.Module]"]:
    """A function that builds the stages of a MedViT.

    Args:
        depths: blocks of each of the four stages.
        drop: rate of skipped branches of the last block, rising from 0.
        stem_widths: channels of the stem's first three convolutions; the fourth keeps them and halves the resolution
            again (not in the small stem).
        widths: channels of convolution and transformer blocks by stage. Each stage but the first ends in a transformer.
        group: the third stage has one transformer block in so many blocks, a divisor of its depth.
    """

    def stages(channels: int, n_classes: int, stem: str) -> "OrderedDict[str, nn.Module]":
        sizes, strides = (channels, *stem_widths, stem_widths[-1]), (2, 1, 1, 1 if stem == "small" else 2)
        units = [_unit(n_in, n_out, stride) for n_in, n_out, stride in zip(sizes, sizes[1:], strides)]
        blocks = list(_blocks(stem_widths[-1], depths, drop, widths, group))
        last = widths[-1][1]
        return draw(
            OrderedDict(
                stem=nn.Sequential(*units),
                features=nn.Sequential(*blocks),
                norm=nn.BatchNorm2d(last),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(1),
                proj_head=nn.Sequential(nn.Linear(last, n_classes)),
            )
        )

    return stages


def _blocks(
    n_in: int, depths: Sequence[int], drop: float, widths: Sequence[tuple[int, int]], group: int
) -> Iterator[nn.Module]:
    rates = iter(torch.linspace(0, drop, sum(depths), device="cpu").tolist())
    for stage, (depth, (convolving, attending)) in enumerate(zip(depths, widths)):
        every = group if stage == 2 else depth
        for i in range(depth):
            stride, rate = 2 if stage and i == 0 else 1, next(rates)
            if stage and (i + 1) % every == 0:
                yield TransformerBlock(n_in, attending, stride, REDUCTIONS[stage], rate)
                n_in = attending
            else:
                yield ConvolutionBlock(n_in, convolving, stride, rate)
                n_in = convolving


def draw(stages: "OrderedDict[str, nn.Module]") -> "OrderedDict[str, nn.Module]":
    """The same stages, weights of convolutions and linear layers from a truncated normal of sd 0.02, biases 0."""
    for module in nn.ModuleList(stages.values()).modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return stages


MEDVITS = {
    "medvit_small": medvit((3, 4, 10, 3), 0.1),
    "medvit_base": medvit((3, 4, 20, 3), 0.2),
    "medvit_large": medvit((3, 4, 30, 3), 0.2),
    "medvit_tiny": medvit((1, 2, 2, 2), 0.0, (16, 16, 32), ((32, 32), (64, 128), (64, 128), (128, 256)), 2),
}
"""The paper's three, and a tiny one for small images and tests."""
