"""Vision transformers as sequences of stages.

Layer conventions. Activations keep channels on the second axis, as everywhere: `patch_embed` gives (B,K,h,w), `tokens`,
`blocks.0`, `blocks.1`, … and `norm` give tokens (B,K,T), `class_token` and `head` give (B,K). Token 0 is the class
token; token 1 + i·w + j is the patch in row i, column j; `token_grid` turns (B,K,T) into (B,K,h,w). Inside a block
`attn.attend` gets queries, keys and values (B,T,3K) of all heads and returns (B,T,K); its `weights` gives the attention
matrices (B,heads,T,T), rows summing to 1. Blocks are `norm1, attn, add1, norm2, mlp, add2`, parameters named as timm's.
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.models.layers import Add
from xai_robustness.types import InputError

EPS = 1e-6
"""Of layer norms, as in the published transformers."""


def token_grid(
    tokens: Float[Tensor, "b k t"], extra: int | None = None, shape: tuple[int, int] | None = None
) -> Float[Tensor, "b k h w"]:
    """Put tokens (B,K,T) back on the grid of their patches; tokens that are no patches stand in front and are dropped.

    Args:
        tokens: activations, relevances or gradients of a token layer.
        extra: number of tokens that are no patches; None: the one of 0, 1, 2 that leaves a square.
        shape: (h,w) of the grid; None: square.

    Raises:
        InputError: the tokens do not fill a grid.
    """
    n = tokens.shape[2] if tokens.ndim == 3 else 0
    for front in (0, 1, 2) if extra is None else (extra,):
        h, w = shape if shape is not None else (math.isqrt(max(n - front, 0)),) * 2
        if h * w == n - front > 0:
            return tokens[:, :, front:].reshape(*tokens.shape[:2], h, w)
    raise InputError(
        f"The tokens parameter of token_grid must be (B,K,T) with as many patches as a grid has. "
        f"Got {tuple(tokens.shape)} instead; name `extra` and `shape` for grids that are not square."
    )


class Tokens(nn.Module):
    """Patches (B,K,h,w) as tokens (B,K,1+hw): a class token in front, positions added [Dosovitskiy2021].

    Args:
        width: K.
        grid: side of the grid that positions are learned for; they are interpolated for any other.
        extra: class tokens: 1, or 2 with DeiT's distillation token [Touvron2021].
    """

    def __init__(self, width: int, grid: int, extra: int = 1) -> None:
        super().__init__()
        self.grid, self.extra = grid, extra
        self.class_token = nn.Parameter(torch.zeros(1, width, extra))
        self.positions = nn.Parameter(torch.empty(1, width, extra + grid**2))
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, patches: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k t"]:
        """Tokens with positions."""
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches.flatten(2)], 2)
        return tokens + self._positions(*patches.shape[2:])

    def constant(self, patches: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k t"]:
        """What does not come from the patches: the class token and all positions."""
        return self.forward(torch.zeros_like(patches))

    def _positions(self, h: int, w: int) -> Float[Tensor, "1 k t"]:
        if (h, w) == (self.grid, self.grid):
            return self.positions
        front, rest = self.positions[:, :, : self.extra], self.positions[:, :, self.extra :]
        rest = rest.reshape(1, -1, self.grid, self.grid)
        rest = F.interpolate(rest, size=(h, w), mode="bicubic", align_corners=False)
        return torch.cat([front, rest.flatten(2)], 2)


class Attend(nn.Module):
    """Attention of several heads over queries, keys and values: softmax(q kᵀ / √d) v [Vaswani2017].

    Args:
        heads: number of heads; they share the width evenly.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def parts(self, *inputs: Float[Tensor, "b t k3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each (B,heads,T,d)."""
        (qkv,) = inputs
        b, t, k3 = qkv.shape
        q, k, v = qkv.reshape(b, t, 3, self.heads, k3 // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def joined(self, values: Float[Tensor, "b heads t d"]) -> Float[Tensor, "b t k"]:
        """The heads' values side by side."""
        return values.transpose(1, 2).flatten(2)

    def packed(self, *parts: Float[Tensor, "b heads t d"]) -> tuple[Tensor, ...]:
        """The reverse of `parts`: what has the shapes of queries, keys and values, as the inputs have it."""
        return (torch.cat([self.joined(part) for part in parts], 2),)

    def weights(self, *inputs: Float[Tensor, "b t k3"]) -> Float[Tensor, "b heads t t"]:
        """Attention matrices; each row sums to 1."""
        q, k, _ = self.parts(*inputs)
        return (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)

    def forward(self, *inputs: Float[Tensor, "b t k3"]) -> Float[Tensor, "b t k"]:
        """The values, averaged with the attention weights."""
        return self.joined(F.scaled_dot_product_attention(*self.parts(*inputs)))


class AttendTo(Attend):
    """Attention of queries (B,T,K) to keys and values (B,S,K) of other tokens: three inputs in place of one."""

    def parts(self, *inputs: Float[Tensor, "b _ k"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B,heads,T,d), keys and values (B,heads,S,d)."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in inputs)
        return q, k, v

    def packed(self, *parts: Float[Tensor, "b heads _ d"]) -> tuple[Tensor, ...]:
        """The parts with their heads joined."""
        return tuple(self.joined(part) for part in parts)


class SelfAttention(nn.Module):
    """Self-attention of tokens (B,T,K), parameters named as timm's.

    Args:
        width: K.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.attend = Attend(heads)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "b t k"]) -> Float[Tensor, "b t k"]:
        """The tokens' new values."""
        return self.proj(self.attend(self.qkv(tokens)))


class Block(nn.Module):
    """One transformer block, layer norms in front: x + attn(norm1(x)), then x + mlp(norm2(x)); tokens (B,K,T).

    Args:
        width: K.
        heads: number of heads.
        hidden: width of the layer between.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = SelfAttention(width, heads)
        self.add1 = Add()
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        layers = OrderedDict(fc1=nn.Linear(width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, width))
        self.mlp = nn.Sequential(layers)
        self.add2 = Add()

    def forward(self, x: Float[Tensor, "b k t"]) -> Float[Tensor, "b k t"]:
        """The tokens after this block."""
        tokens = x.transpose(1, 2)
        tokens = self.add1(tokens, self.attn(self.norm1(tokens)))
        tokens = self.add2(tokens, self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of tokens (B,K,T)."""

    def forward(self, x: Float[Tensor, "b k t"]) -> Float[Tensor, "b k t"]:
        """Normalised tokens."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ClassToken(nn.Module):
    """Takes the class tokens (B,K) from tokens (B,K,T); of two, one after the other (B,2K).

    Args:
        extra: class tokens in front of the patches.
    """

    def __init__(self, extra: int = 1) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, tokens: Float[Tensor, "b k t"]) -> Float[Tensor, "b k2"]:
        """The first tokens."""
        return tokens[:, :, : self.extra].transpose(1, 2).flatten(1)


class PatchMean(nn.Module):
    """Mean (B,K) of the patches among tokens (B,K,T), as in classifiers fine-tuned from masked autoencoders [He2022].

    Args:
        extra: class tokens in front of the patches, which are left out.
    """

    def __init__(self, extra: int = 1) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, tokens: Float[Tensor, "b k t"]) -> Float[Tensor, "b k"]:
        """Mean over the patches."""
        return tokens[:, :, self.extra :].mean(2)


def vit_stages(
    channels: int,
    n_classes: int,
    patch: int,
    grid: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    extra: int = 1,
    average: bool = False,
) -> "OrderedDict[str, nn.Module]":
    """Stages of a vision transformer [Dosovitskiy2021], linear layers drawn from a truncated normal of sd 0.02.

    Args:
        channels: of the images.
        n_classes: number of logits.
        patch: side of a patch in pixels; what a patch no more fits into is not seen.
        grid: side of the grid that positions are learned for.
        width: channels of a token.
        depth: number of blocks.
        heads: of each block's attention.
        hidden: width of each block's layer between.
        extra: class tokens: 1, or 2 with DeiT's distillation token. The published two heads, whose logits are averaged,
            are one linear layer over both tokens.
        average: classify the norm of the patches' mean [He2022] in place of the class tokens' norms.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        patch_embed=nn.Conv2d(channels, width, patch, stride=patch),
        tokens=Tokens(width, grid, extra),
        blocks=nn.Sequential(*[Block(width, heads, hidden) for _ in range(depth)]),
    )
    if average:
        stages.update(pool=PatchMean(extra), norm=nn.LayerNorm(width, eps=EPS))
    else:
        stages.update(norm=ChannelNorm(width, eps=EPS), class_token=ClassToken(extra))
    stages["head"] = nn.Linear(width if average else extra * width, n_classes)
    return draw_weights(stages)


def draw_weights(stages: "OrderedDict[str, nn.Module]") -> "OrderedDict[str, nn.Module]":
    """The same stages, their linear layers drawn from a truncated normal of sd 0.02, biases 0."""
    for module in nn.ModuleList(stages.values()).modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return stages
