"""Borrow a model: use it in evaluation mode without gradients of its weights, give it back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def borrow(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module into evaluation mode and every weight out of the graph; both are restored on exit.

    Gradients already held by the weights are left alone.
    """
    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for weight, _ in weights:
            weight.requires_grad_(False)
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, needed in weights:
            weight.requires_grad_(needed)
