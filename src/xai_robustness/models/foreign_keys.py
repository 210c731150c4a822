"""Parameter names of other libraries' transformers, so that their checkpoints fit the zoo's."""

import re
from collections.abc import Mapping

from torch import Tensor

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
)
ONCE_TRANSPOSED = ("tokens.class_token", "tokens.positions")


def to_zoo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the zoo's names: torchvision's and timm's vision transformers (ViT, DeiT) are renamed.

    Args:
        state: any state dict; of all other models it comes back as it is.
    """
    names = TORCHVISION if "encoder.pos_embedding" in state else TIMM if "cls_token" in state else ()
    if not names:
        return dict(state)
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value.transpose(1, 2).contiguous() if key in ONCE_TRANSPOSED else value
    return renamed
