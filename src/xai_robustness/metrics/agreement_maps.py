"""From attributions to the maps that are compared: which signs are kept, how channels are joined."""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from xai_robustness.types import Params

Sign = Literal["both", "positive", "negative"]


class MapParams(Params):
    """How an attribution (N,C,H,W) becomes the map that the agreement metrics see [Repetto2026]."""

    before: Sign = Field("both", description="signs kept before channels are joined; negative: their magnitude")
    channels: Literal["sum", "mean", "absolute", "apart"] = Field(
        "sum", description="sum, mean, sum of magnitudes, or apart: the channels one below the other"
    )
    after: Sign = Field("positive", description="signs kept afterwards; negative: their magnitude")
    absolute: bool = Field(False, description="magnitudes at the end")


def prepare(attributions: Float[Tensor, "n c h w"], params: MapParams) -> Float[Tensor, "n r w"]:
    """Maps (N,H,W), or (N,C*H,W) with channels apart; metrics that need [0,1] scale by minimum and maximum themselves.

    Example:
        >>> import torch
        >>> prepare(torch.tensor([[[[1.0, -3.0]], [[1.0, 1.0]]]]), MapParams())
        tensor([[[2., 0.]]])
    """
    kept = _signs(attributions, params.before)
    joined = {
        "sum": lambda: kept.sum(1),
        "mean": lambda: kept.mean(1),
        "absolute": lambda: kept.abs().sum(1),
        "apart": lambda: kept.flatten(1, 2),
    }[params.channels]()
    joined = _signs(joined, params.after)
    return joined.abs() if params.absolute else joined


def _signs(values: Tensor, kept: Sign) -> Tensor:
    if kept == "both":
        return values
    return values.clamp(min=0) if kept == "positive" else -values.clamp(max=0)
