"""Backward rules for nonlinear functions, in place of their gradients, wherever a model calls them.

The functions are caught as the model calls them, so it does not matter whether a ReLU is a module, a module that is
used several times, in place, or a function in `forward`; and nothing of the model is changed.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

ReluRule = Callable[[Float[Tensor, " *shape"], Float[Tensor, " *shape"]], Float[Tensor, " *shape"]]
"""(output of the ReLU, gradient of its output) -> what its input gets."""

_IN_PLACE = {F.relu_: F.relu, torch.relu_: F.relu, Tensor.relu_: F.relu}
_RELU = {F.relu, torch.relu, Tensor.relu, *_IN_PLACE}


def guided(output: Float[Tensor, " *shape"], above: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """Positive gradients of positive outputs."""
    return above.clamp(min=0) * (output > 0)


def deconvolved(output: Float[Tensor, " *shape"], above: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """Positive gradients."""
    return above.clamp(min=0)


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: ReluRule, x: Tensor) -> Tensor:
        output = x.clamp(min=0)
        ctx.rule = rule
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[None, Tensor]:
        return None, ctx.rule(ctx.saved_tensors[0], above)


class Nonlinearities(TorchFunctionMode):
    """While the context is open, every ReLU goes backward by `relu`.

    Args:
        relu: the rule.

    Attributes:
        calls: how many ReLUs were met.
    """

    def __init__(self, relu: ReluRule) -> None:
        super().__init__()
        self.relu = relu
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take over calls of ReLU; all others go on."""
        kwargs = kwargs or {}
        if func not in _RELU:
            return func(*args, **kwargs)
        self.calls += 1
        x = args[0] if args else kwargs["input"]
        if func in _IN_PLACE or kwargs.get("inplace", False):
            return x.copy_(_Relu.apply(self.relu, x.clone()))
        return _Relu.apply(self.relu, x)
