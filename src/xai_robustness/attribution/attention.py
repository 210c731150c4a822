"""Attention caught where models call it, whoever wrote them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.models.taps import hooked

Change = Callable[[Float[Tensor, "b heads t s"]], Float[Tensor, "b heads t s"]]
"""What becomes of a block's attention probabilities before they weigh the values."""


@contextmanager
def caught(model: nn.Module, change: Change) -> Iterator[None]:
    """While the context is open, the probabilities of every attention go through `change`.

    Covers what calls `torch.nn.functional.scaled_dot_product_attention`, as torch's own attention and timm's do, and
    softmax modules over the last of four axes. Not for several threads at once.
    """

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return change(scores.softmax(-1)) @ value

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return change(output) if output.ndim == 4 else output

    softmaxes = [module for module in model.modules() if isinstance(module, nn.Softmax)]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # the fused path has no probabilities
        with patched("scaled_dot_product_attention", attend), hooked(dict.fromkeys(softmaxes, hook)):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def patched(name: str, function: Callable[..., Tensor]) -> Iterator[None]:
    """While the context is open, `torch.nn.functional` has `function` under `name`."""
    original = getattr(F, name)
    setattr(F, name, function)
    try:
        yield
    finally:
        setattr(F, name, original)
