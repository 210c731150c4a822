"""A model made lean for many gradients of its inputs: batch norms merged, small convolutions as matrices."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xai_robustness.attribution.linearity import Linearity
from xai_robustness.attribution.packed import Dense, packable
from xai_robustness.attribution.rules import LAST
from xai_robustness.models.canonizers import canonizers, is_merged


@contextmanager
def lean(model: nn.Module, gradients: bool = True) -> Iterator[nn.Module]:
    """Merge a borrowed model's batch norms and make matrices of convolutions over few positions; both are undone.

    Without gradients all convolutions get packed weights and channels last; with them that gains nothing.

    The model is the same function up to rounding, and differentiable once. Where it has hooks, on other devices than a
    CPU, in other precisions than float32 and under autocast it is left alone. Making it lean costs as much as a few
    passes.
    """
    with ExitStack() as stack:
        if _can_be_lean(model):
            for canonizer in canonizers(model):
                for instance in canonizer.apply(model):
                    stack.callback(instance.remove)
            for module in model.modules():
                if is_merged(module):
                    module.forward = _identity
                elif type(module) is nn.Conv2d and _is_plain(module):
                    module.forward = partial(_forward, module, Linearity(module), gradients)  # type: ignore[method-assign]
                else:
                    continue
                stack.callback(module.__delattr__, "forward")
        yield model


def _can_be_lean(model: nn.Module) -> bool:
    plain = all(w.device.type == "cpu" and w.dtype == torch.float32 and not w.requires_grad for w in model.parameters())
    inner = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    own = any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in inner)
    in_use = any(
        module.training or module.running_mean is None for module in inner if isinstance(module, nn.BatchNorm2d)
    )
    return bool(inner) and plain and not own and not in_use and not torch.is_autocast_enabled("cpu")


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _identity(x: Tensor) -> Tensor:
    return x


def _forward(layer: nn.Conv2d, map_: Linearity, gradients: bool, x: Tensor) -> Tensor:
    with torch.no_grad():
        worth = not gradients or Dense.pays(x.shape, map_.weight, map_.options)
        fits = worth and packable(x, map_.weight, map_.options)
    return _Convolution.apply(x, map_) if fits else type(layer).forward(layer, x)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, map_: Linearity) -> Tensor:
        ctx.map, ctx.shape = map_, x.shape
        return map_.apply(x, map_.weight, map_.bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        like = above.new_empty(ctx.shape).contiguous(memory_format=LAST)  # for its shape alone
        return ctx.map.back(above, ctx.map.weight, like), None
