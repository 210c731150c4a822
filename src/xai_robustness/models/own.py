"""A user's own network, named by its import path or by the file of its export."""

import importlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

from xai_robustness.models.exported import SUFFIX, exported_stages
from xai_robustness.types import InputError

MOST_LAYERS = 4


def is_own(name: str) -> bool:
    """Whether a model's name is an import path, `package.module:function`, or a file of torch.export."""
    return ":" in name or name.endswith(SUFFIX)


def own_stages(name: str) -> Callable[[int, int, Any], "OrderedDict[str, nn.Module]"]:
    """A builder like those of MODELS from a user's function, or from a `.pt2` file (see `exported`).

    Args:
        name: `package.module:function`; the function takes the numbers of channels and of classes, and returns a
            `nn.Sequential` from normalised images (B,C,H,W) to logits (B,K).

    Raises:
        InputError: it cannot be imported, or (when it is called) returns something else.
    """
    if name.endswith(SUFFIX):
        return exported_stages(name)
    function = own_function(name)

    def stages(channels: int, n_classes: int, _: object) -> "OrderedDict[str, nn.Module]":
        model = function(channels, n_classes)
        if not isinstance(model, nn.Sequential):
            raise InputError(
                f"The function {name} must return a nn.Sequential, so that every layer can be cut. "
                f"Got {type(model).__name__} instead: put its parts, in the order of its forward, into one."
            )
        return OrderedDict(model.named_children())

    return stages


def own_function(name: str) -> Callable[[int, int], Any]:
    """The function that `package.module:function` names; raises InputError if it cannot be imported."""
    module, _, attribute = name.partition(":")
    try:
        function: Callable[[int, int], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"The name parameter of ModelParams must be importable, package.module:function. Got '{name}' instead: "
            f"{error}. Put its folder on PYTHONPATH."
        ) from error
    return function


def convolutional_stages(model: nn.Sequential) -> tuple[str, ...]:
    """The last stages with a convolution inside, each with the activation, pooling or norm that follows it."""
    names = [name for name, _ in model.named_children()]
    found: list[str] = []
    for i, child in enumerate(model.children()):
        if any(isinstance(module, nn.Conv2d) for module in child.modules()):
            end = i
            while end + 1 < len(names) and isinstance(model[end + 1], nn.ReLU | nn.BatchNorm2d | nn.MaxPool2d):
                end += 1
            found.append(names[end])
    return tuple(found[-MOST_LAYERS:])
