"""Canonical form for LRP: batch normalisation merged into the convolution before it, undone to the bit afterwards."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from zennit.canonizers import Canonizer


class MergeBatchNorm(Canonizer):
    """Merge every batch norm into the convolution or linear layer that its parent runs right before it.

    zennit's SequentialMergeBatchNorm compares neighbouring leaves over container borders, which pairs the wrong layers
    in DenseNet; its 0.5 release also keeps the batch norm's eps, which changes the function. Here only direct
    neighbours in one container count, which in the zoo are those that follow each other, and eps becomes 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[tuple[Any, str, Any]] = []

    def apply(self, root_module: nn.Module) -> list["MergeBatchNorm"]:
        """Merge all pairs below `root_module`; returns the instances whose `remove` undoes it."""
        instances = []
        for linear, batch_norm in batch_norm_pairs(root_module):
            instance = MergeBatchNorm()
            instance.register(linear, batch_norm)
            instances.append(instance)
        return instances

    def register(self, linear: nn.Conv2d | nn.Linear, batch_norm: nn.BatchNorm2d) -> None:
        """Merge one pair; needs running statistics and affine parameters."""
        names = ("weight", "bias", "running_mean", "running_var", "eps")
        self.saved = [(linear, "weight", linear.weight), (linear, "bias", linear.bias)]
        self.saved += [(batch_norm, name, getattr(batch_norm, name)) for name in names]
        weight, bias, mean, var, eps = (value for _, _, value in self.saved[2:])
        with torch.no_grad():
            scale = weight / (var + eps).sqrt()
            old: Tensor = torch.zeros_like(mean) if linear.bias is None else linear.bias
            merged = linear.weight * scale.reshape(-1, *[1] * (linear.weight.ndim - 1))
            linear.weight = nn.Parameter(merged, requires_grad=False)
            linear.bias = nn.Parameter((old - mean) * scale + bias, requires_grad=False)
        batch_norm.weight = nn.Parameter(torch.ones_like(weight), requires_grad=False)
        batch_norm.bias = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
        batch_norm.running_mean, batch_norm.running_var = torch.zeros_like(mean), torch.ones_like(var)
        batch_norm.eps = 0.0

    def remove(self) -> None:
        """Put the very same parameters and buffers back, whatever stands in their place."""
        for owner, attribute, value in self.saved:
            setattr(owner, attribute, value)
        self.saved = []

    def copy(self) -> "MergeBatchNorm":
        """Return a fresh instance."""
        return MergeBatchNorm()


def batch_norm_pairs(model: nn.Module) -> list[tuple[nn.Conv2d | nn.Linear, nn.BatchNorm2d]]:
    """All (convolution or linear layer, batch norm) that are direct neighbours among one module's children."""
    pairs: list[tuple[nn.Conv2d | nn.Linear, nn.BatchNorm2d]] = []
    for module in model.modules():
        for left, right in pairwise(module.children()):
            if isinstance(left, nn.Conv2d | nn.Linear) and isinstance(right, nn.BatchNorm2d) and _is_fixed(right):
                pairs.append((left, right))
    return pairs


def _is_fixed(batch_norm: nn.BatchNorm2d) -> bool:
    return batch_norm.affine and batch_norm.running_mean is not None


def canonizers(model: nn.Module) -> list[Canonizer]:
    """Canonizers that a zoo model needs for LRP; residual sums are modules already and need none."""
    return [MergeBatchNorm()] if batch_norm_pairs(model) else []


@contextmanager
def canonical(model: nn.Module) -> Iterator[nn.Module]:
    """A model in canonical form while the context is open, given back as it was."""
    with ExitStack() as stack:
        for canonizer in canonizers(model):
            for instance in canonizer.apply(model):
                stack.callback(instance.remove)
        yield model


def is_merged(module: nn.Module) -> bool:
    """Whether a module is a batch norm that `MergeBatchNorm` has turned into the identity."""
    return isinstance(module, nn.BatchNorm2d) and module.eps == 0
