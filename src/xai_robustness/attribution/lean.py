"""A model made lean for many passes: batch norms merged, convolutions over small maps as products."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from xai_robustness.models.canonizers import canonical, is_merged
from xai_robustness.models.small_maps import products_for_small_maps


@contextmanager
def lean(model: nn.Module) -> Iterator[nn.Module]:
    """Merge a borrowed model's batch norms and make products of its convolutions over small maps; undone on exit.

    The model is the same function up to rounding. Where it has hooks, on other devices than a
    CPU and under autocast it is left alone.
    """
    with ExitStack() as stack:
        if _can_be_lean(model):
            stack.enter_context(canonical(model))
            for module in model.modules():
                if is_merged(module):
                    module.forward = _identity
                    stack.callback(module.__delattr__, "forward")
            stack.enter_context(products_for_small_maps(model, constant=True))
        yield model


def _can_be_lean(model: nn.Module) -> bool:
    plain = all(w.device.type == "cpu" and not w.requires_grad for w in model.parameters())
    inner = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    own = any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in inner)
    trains = any(module.training for module in inner)
    return bool(inner) and plain and not own and not trains and not torch.is_autocast_enabled("cpu")


def _identity(x: Tensor) -> Tensor:
    return x
