"""Contextual decomposition: which part of every logit a region of the image contributes, in one forward pass."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from xai_robustness.models.layers import DenseBlock, Normalize, ResidualBlock
from xai_robustness.types import InputError

Pair = tuple[Tensor, Tensor]
"""What the region and what the rest contribute; their sum is the activation."""


def decompose(
    model: nn.Sequential, images: Float[Tensor, "b c h w"], masks: Bool[Tensor, "b h w"]
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Contributions of the masked region and of the rest to every logit, whose sum is the logits [Rieger2020].

    Biases are shared out by the size of the two parts, a ReLU gives the region relu(region) and the rest what is left,
    max pooling follows the maximum of the sum. The normalised image is what is cut in two.

    Args:
        model: sequence of stages of the zoo, in evaluation mode, without insertions.
        images: (B,C,H,W) in [0,1].
        masks: the region.

    Raises:
        InputError: a module that no rule knows.
    """
    stages = list(model)
    first = stages.pop(0) if isinstance(stages[0], Normalize) else nn.Identity()
    inputs = first(images)
    region = inputs * masks[:, None].to(inputs)
    return _chain(stages, (region, inputs - region))


def _chain(stages: list[nn.Module], pair: Pair) -> Pair:
    for stage in stages:
        pair = _through(stage, pair)
    return pair


def _through(module: nn.Module, pair: Pair) -> Pair:
    for types, rule in RULES:
        if isinstance(module, types):
            return rule(module, pair)
    raise InputError(
        f"The model parameter of decompose must be made of modules with a rule. Got {type(module).__name__} instead."
    )


def _shared(pair: Pair, bias: Tensor | None) -> Pair:
    """Add a bias, shared out by the absolute size of the two parts."""
    if bias is None:
        return pair
    region, rest = pair
    bias = bias.view(1, -1, *[1] * (region.ndim - 2))
    share = region.abs() / (region.abs() + rest.abs() + torch.finfo(region.dtype).tiny)
    return region + bias * share, rest + bias * (1 - share)


def _convolution(module: nn.Module, pair: Pair) -> Pair:
    assert isinstance(module, nn.Conv2d)
    region, rest = (module._conv_forward(part, module.weight, None) for part in pair)
    return _shared((region, rest), module.bias)


def _linear(module: nn.Module, pair: Pair) -> Pair:
    assert isinstance(module, nn.Linear)
    region, rest = (functional.linear(part, module.weight) for part in pair)
    return _shared((region, rest), module.bias)


def _batch_norm(module: nn.Module, pair: Pair) -> Pair:
    assert isinstance(module, nn.BatchNorm2d) and module.running_var is not None and module.running_mean is not None
    scale = module.weight / (module.running_var + module.eps).sqrt()
    region, rest = (part * scale[:, None, None] for part in pair)
    return _shared((region, rest), module.bias - module.running_mean * scale)


def _relu(module: nn.Module, pair: Pair) -> Pair:
    region = functional.relu(pair[0])
    return region, functional.relu(pair[0] + pair[1]) - region


def _max_pool(module: nn.Module, pair: Pair) -> Pair:
    assert isinstance(module, nn.MaxPool2d)
    pooled, places = functional.max_pool2d(
        pair[0] + pair[1],
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        return_indices=True,
    )
    region, rest = (part.flatten(2).gather(2, places.flatten(2)).view_as(pooled) for part in pair)
    return region, rest


def _each(module: nn.Module, pair: Pair) -> Pair:
    return module(pair[0]), module(pair[1])


def _sequence(module: nn.Module, pair: Pair) -> Pair:
    return _chain(list(module.children()), pair)


def _residual(module: nn.Module, pair: Pair) -> Pair:
    assert isinstance(module, ResidualBlock)
    inner = _chain([module.get_submodule(name) for name in module.path], pair)
    beside = _through(module.downsample, pair)
    return _relu(module.relu, (inner[0] + beside[0], inner[1] + beside[1]))


def _dense(module: nn.Module, pair: Pair) -> Pair:
    found = [pair]
    for layer in module.children():
        joined = torch.cat([a for a, _ in found], 1), torch.cat([b for _, b in found], 1)
        found.append(_through(layer, joined))
    return torch.cat([a for a, _ in found], 1), torch.cat([b for _, b in found], 1)


RULES: tuple[tuple[tuple[type, ...], Callable[[nn.Module, Pair], Pair]], ...] = (
    ((ResidualBlock,), _residual),
    ((DenseBlock,), _dense),
    ((nn.Sequential,), _sequence),
    ((nn.Conv2d,), _convolution),
    ((nn.Linear,), _linear),
    ((nn.BatchNorm2d,), _batch_norm),
    ((nn.ReLU,), _relu),
    ((nn.MaxPool2d,), _max_pool),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Identity), _each),
)
