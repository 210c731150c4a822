"""A model made lean for many passes: batch norms merged, convolutions over tiny maps as matrices."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xai_robustness.models.canonizers import canonical, is_merged
from xai_robustness.models.small_maps import ConvolutionMatrix, is_plain


@contextmanager
def lean(model: nn.Module) -> Iterator[nn.Module]:
    """Merge a borrowed model's batch norms and make matrices of its convolutions over tiny maps; undone on exit.

    The model is the same function up to rounding, and differentiable once. Where it has hooks, on other devices than a
    CPU and under autocast it is left alone.
    """
    with ExitStack() as stack:
        if _can_be_lean(model):
            stack.enter_context(canonical(model))
            for module in model.modules():
                own = _identity if is_merged(module) else _Matrices(module) if is_plain(module) else None
                if own is not None:
                    module.forward = own
                    stack.callback(module.__delattr__, "forward")
        yield model


def _can_be_lean(model: nn.Module) -> bool:
    plain = all(w.device.type == "cpu" and not w.requires_grad for w in model.parameters())
    inner = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    own = any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in inner)
    trains = any(module.training for module in inner)
    return bool(inner) and plain and not own and not trains and not torch.is_autocast_enabled("cpu")


def _identity(x: Tensor) -> Tensor:
    return x


class _Matrices:
    """A convolution's forward that makes a matrix for each size of map where that pays."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = layer
        self.made: dict[tuple[int, ...], ConvolutionMatrix] = {}

    def __call__(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if not ConvolutionMatrix.pays(self.layer, size):
            return nn.Conv2d.forward(self.layer, x)
        if size not in self.made:
            self.made[size] = ConvolutionMatrix(self.layer, self.layer.weight, size)
        return _ByMatrix.apply(x, self.made[size], self.layer.bias)


class _ByMatrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: ConvolutionMatrix, bias: Tensor | None) -> Tensor:
        ctx.matrix = matrix
        return matrix.apply(x, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None]:
        return ctx.matrix.back(above), None, None
