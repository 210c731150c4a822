"""LibraGRAD: gradients of transformers after their unbalanced parts are made locally linear."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai_robustness.attribution.attention import caught, patched
from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.attribution.cam import Evidence, GradCamPlusPlus

GATES = ("gelu", "silu", "hardswish")
"""Functions x · gate(x) of torch.nn.functional, all with gate(0) = 1/2."""


@contextmanager
def balanced(model: nn.Module) -> Iterator[None]:
    """While the context is open, the backward pass takes gates, norms' deviations and attention for constants.

    x · gate(x) passes gate(x); layer norm passes (1 - mean) / std; attention passes its probabilities to the values and
    nothing to queries and keys [Mehri2024]. The forward pass stays. Not for several threads at once.
    """
    with ExitStack() as stack:
        stack.enter_context(caught(model, Tensor.detach))
        for name in GATES:
            stack.enter_context(patched(name, _gate(getattr(F, name))))
        stack.enter_context(patched("layer_norm", _layer_norm))
        yield


def _gate(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def gated(x: Tensor, *args: Any, **options: Any) -> Tensor:
        with torch.no_grad():
            gate = torch.where(x != 0, original(x, *args, **options) / torch.where(x != 0, x, 1.0), 0.5)
        return x * gate

    return gated


def _layer_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    axes = tuple(range(-len(shape), 0))
    deviation = (x.detach().var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    normal = (x - x.mean(axes, keepdim=True)) / deviation
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


@ATTRIBUTORS.register("libra_grad")
class LibraGrad(GradCamPlusPlus):
    """LibraGRAD with Grad-CAM++: Grad-CAM++ of a transformer's tokens with balanced gradients [Mehri2024].

    Models without gates, layer norms and attention have nothing to balance: there it is Grad-CAM++.
    """

    def evidence(self, images: Tensor, targets: Tensor, layers: Any) -> Evidence:
        """Activations, and their gradients in the balanced model."""
        with balanced(self.model):
            return super().evidence(images, targets, layers)
