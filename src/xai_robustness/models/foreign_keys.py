"""Parameter names of other libraries, so that their checkpoints fit the zoo's models."""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Names = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

TORCHVISION = (
    (r"^conv_proj\.", "patch_embed."),
    (r"^class_token$", "tokens.class_token"),
    (r"^encoder\.pos_embedding$", "tokens.positions"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)
TIMM = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^cls_token$", "tokens.class_token"),
    (r"^pos_embed$", "tokens.positions"),
    (r"^fc_norm\.", "norm."),
)
PIT = ((r"^patch_embed\.conv\.", "patch_embed."), *TIMM[1:])
CONVNEXT: Names = (
    (r"^stages\.(\d+)\.(downsample|blocks)\.", lambda at: f"features.{2 * int(at[1]) + (at[2] == 'blocks')}."),
    (r"^head\.norm\.", "classifier.0."),
    (r"^head\.fc\.", "classifier.2."),
    (r"^stem\.", "features.0."),
    (r"\.conv_dw\.", ".block.0."),
    (r"\.norm\.", ".block.2."),
    (r"\.mlp\.fc1\.", ".block.3."),
    (r"\.mlp\.fc2\.", ".block.5."),
    (r"\.gamma$", ".layer_scale"),
)
DENSENET = ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)
ONCE_TRANSPOSED = ("tokens.class_token", "tokens.positions")


def to_zoo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the zoo's names.

    torchvision's and timm's ViT, DeiT and PiT, timm's ConvNeXt, and DenseNet as torchvision publishes it are renamed.
    A distilled model's two heads become one over both class tokens, with the same logits.

    Args:
        state: any state dict; of all other models it comes back as it is.
    """
    state = _one_head(state)
    if "transformers.0.blocks.0.norm1.weight" in state and "cls_token" in state:
        return _renamed(_with_class_positions(state), PIT)
    if "stages.0.blocks.0.conv_dw.weight" in state and "stem.0.weight" in state:
        renamed = _renamed(state, CONVNEXT)
        return {k: v[:, None, None] if k.endswith(".layer_scale") else v for k, v in renamed.items()}
    if "features.denseblock1.denselayer1.norm.1.weight" in state:
        return _renamed(state, DENSENET)
    names = TORCHVISION if "encoder.pos_embedding" in state else TIMM if "cls_token" in state else ()
    if not names:
        return dict(state)
    return _renamed(state, names)


def _one_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Class and distillation token side by side, the mean of their heads as one layer; other states as they are."""
    state = dict(state)
    if "dist_token" in state:
        state["cls_token"] = torch.cat([state["cls_token"], state.pop("dist_token")], 1)
    if "head_dist.weight" in state:
        state["head.weight"] = torch.cat([state["head.weight"], state.pop("head_dist.weight")], 1) / 2
        state["head.bias"] = (state["head.bias"] + state.pop("head_dist.bias")) / 2
    return state


def _with_class_positions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PiT adds positions to the patches alone: the class tokens get zeros."""
    positions, token = state["pos_embed"].flatten(2).transpose(1, 2), state["cls_token"]
    return {**state, "pos_embed": torch.cat([torch.zeros_like(token), positions], 1)}


def _renamed(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value.transpose(1, 2).contiguous() if key in ONCE_TRANSPOSED else value
    return renamed
