"""Pooling-based vision transformers (PiT) as sequences of stages, parameters named as timm's [Heo2021].

Tokens are (B,K,T) as in `transformers`; between two groups of blocks a convolution halves the grid of the patches and a
linear layer widens the class tokens.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.models.transformers import EPS, Block, ChannelNorm, ClassToken, Tokens, draw_weights, token_grid


class PoolTokens(nn.Module):
    """Patches on half the grid, all tokens wider: a grouped convolution of stride 2, a linear layer for class tokens.

    Args:
        before: K, channels of a token.
        after: channels of a token behind it, a multiple of K.
        extra: class tokens in front of the patches.
    """

    def __init__(self, before: int, after: int, extra: int = 1) -> None:
        super().__init__()
        self.extra = extra
        self.conv = nn.Conv2d(before, after, 3, stride=2, padding=1, groups=before)
        self.fc = nn.Linear(before, after)

    def forward(self, tokens: Float[Tensor, "b k t"]) -> Float[Tensor, "b k2 t2"]:
        """The fewer and wider tokens."""
        patches = self.conv(token_grid(tokens, self.extra)).flatten(2)
        front = self.fc(tokens[:, :, : self.extra].transpose(1, 2)).transpose(1, 2)
        return torch.cat([front, patches], 2)


def pit_stages(
    channels: int,
    n_classes: int,
    patch: int,
    stride: int,
    grid: int,
    dims: int,
    depths: Sequence[int],
    heads: Sequence[int],
    extra: int = 1,
) -> "OrderedDict[str, nn.Module]":
    """Stages of a pooling-based vision transformer [Heo2021].

    Args:
        channels: of the images.
        n_classes: number of logits.
        patch: side of a patch in pixels; patches overlap.
        stride: pixels between two patches.
        grid: side of the first grid of patches.
        dims: channels of a head, in all groups.
        depths: blocks of each group.
        heads: heads of each group; they double, and the width with them.
        extra: class tokens: 1, or 2 with a distillation token.
    """
    widths = [dims * n for n in heads]
    groups: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (depth, n, width) in enumerate(zip(depths, heads, widths)):
        group: OrderedDict[str, nn.Module] = OrderedDict()
        if i:
            group["pool"] = PoolTokens(widths[i - 1], width, extra)
        group["blocks"] = nn.Sequential(*[Block(width, n, 4 * width) for _ in range(depth)])
        groups[str(i)] = nn.Sequential(group)
    return draw_weights(
        OrderedDict(
            patch_embed=nn.Conv2d(channels, widths[0], patch, stride=stride),
            tokens=Tokens(widths[0], grid, extra),
            transformers=nn.Sequential(groups),
            norm=ChannelNorm(widths[-1], eps=EPS),
            class_token=ClassToken(extra),
            head=nn.Linear(extra * widths[-1], n_classes),
        )
    )
