"""Where class activation maps look, and how tokens lie there."""

from torch import nn

from xai_robustness.models.gated import ScaledResidual
from xai_robustness.models.insertions import INSERTIONS
from xai_robustness.models.medvit import TransformerBlock
from xai_robustness.models.pit import PoolTokens
from xai_robustness.models.transformers import Block, ChannelNorm, Tokens
from xai_robustness.models.zoo import inspected_layers

TARGETS: tuple[tuple[type[nn.Module], str], ...] = (
    (Block, "norm1"),
    (ScaledResidual, "block.0"),
    (TransformerBlock, "conv"),
)
"""Blocks whose last one has the target layer inside."""


def cam_layer(model: nn.Sequential) -> str:
    """The layer of class activation maps where none is named.

    The last block's first norm in ViT, DeiT and PiT (behind the block only the class token has a gradient), the last
    depth-wise convolution in ConvNeXt, the last transformer block's feed forward in MedViT, the last inspected layer in
    all others.

    Raises:
        InputError: a model that is not of the zoo.
    """
    for kind, inside in TARGETS:
        names = [name for name, module in model.named_modules() if isinstance(module, kind)]
        if names:
            return f"{names[-1]}.{inside}"
    return inspected_layers(model)[-1]


def tokens_last(model: nn.Module, layer: str) -> bool:
    """Whether outputs (B,·,·) of a layer are (B,K,T), as the zoo's stages have them, and not (B,T,K)."""
    inside = model.get_submodule(layer).modules()
    return any(
        isinstance(m, Block | ChannelNorm | Tokens | PoolTokens) or type(m).__name__ in INSERTIONS for m in inside
    )
