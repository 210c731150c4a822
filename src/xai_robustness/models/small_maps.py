"""Convolutions over maps of few positions as products with one matrix, which holds no padding."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import product
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

MANY = 32
"""Samples from which a matrix made for one batch pays."""


def convolve_by_matrix(x: Float[Tensor, "b c h w"], layer: nn.Conv2d) -> Float[Tensor, "b k i j"]:
    """A convolution as one product with a matrix made of its weights, differentiable in both; one group, zero padding.

    The matrix holds no padding, which is most of what a 3 x 3 kernel meets on a map of 2 x 2. It is made anew for each
    call, so this pays where many products follow: gradients of gradients of a ResNet18's last stage at 28 pixels, on
    one core, take 0.9 of the time of torch's convolutions in batches of 64, and 1.3 in batches of 16 (`MANY`).
    """
    blocks = _blocks(layer, layer.weight, x.shape[2:])
    matrix = blocks.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)  # (positions K, positions C)
    found = (x.flatten(2).transpose(1, 2).flatten(1) @ matrix.T).unflatten(1, (len(blocks), -1))
    found = found.transpose(1, 2).reshape(len(x), -1, *_output_size(x.shape[2:], layer))
    return found if layer.bias is None else found + layer.bias[:, None, None]


def _blocks(layer: nn.Conv2d, weight: Float[Tensor, "k c h w"], size: Sequence[int]) -> Float[Tensor, "to at k c"]:
    """The tap that joins each position of the output and of the input, 0 where none does; differentiable."""
    outside, kernel = _output_size(size, layer), layer.kernel_size
    table = _taps(tuple(size), tuple(outside), kernel, layer.stride, _padding(layer), layer.dilation)
    taps = weight.permute(2, 3, 0, 1).flatten(0, 1)
    taps = torch.cat([taps, torch.zeros_like(taps[:1])])
    chosen = taps.index_select(0, torch.tensor(table, device=weight.device))
    return chosen.unflatten(0, (math.prod(outside), math.prod(size)))


@cache
def _taps(size: tuple[int, ...], outside: tuple[int, ...], kernel: tuple[int, ...], *options: Any) -> list[int]:
    """Number of the tap from each position of the output to each of the input; their count where none reaches it."""
    found = []
    for to in product(*map(range, outside)):
        reached = {}
        for number, tap in enumerate(product(*map(range, kernel))):
            at = tuple(i * s - p + t * d for i, t, s, p, d in zip(to, tap, *options))
            reached[at] = number
        found += [reached.get(at, math.prod(kernel)) for at in product(*map(range, size))]
    return found


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    assert not isinstance(layer.padding, str)
    return layer.padding


def _output_size(size: Sequence[int], layer: nn.Conv2d) -> list[int]:
    sizes = zip(size, _padding(layer), layer.dilation, layer.kernel_size, layer.stride)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes]


def is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a 2-D convolution and no subclass, of one group, padded with zeros."""
    if type(layer) is not nn.Conv2d or isinstance(layer.padding, str):
        return False
    return layer.groups == 1 and layer.padding_mode == "zeros"


class ConvolutionMatrix:
    """A convolution over maps of one size, with any weight, as one matrix, which multiplies no padding.

    It is made once for many batches; where weights change from batch to batch, `convolve_by_matrix` serves.

    Args:
        layer: what `is_plain` calls plain.
        weight: (K,C,h,w).
        size: of the maps that go in, (H,W).
    """

    def __init__(self, layer: nn.Conv2d, weight: Float[Tensor, "k c h w"], size: Sequence[int]) -> None:
        self.inside, self.outside = (weight.shape[1], *size), (len(weight), *_output_size(size, layer))
        self.matrix = _blocks(layer, weight.detach(), size).permute(3, 1, 2, 0).flatten(2).flatten(0, 1)

    @staticmethod
    def pays(layer: nn.Conv2d, size: Sequence[int]) -> bool:
        """Whether the matrix has at most two thirds of the products for each position."""
        return 3 * math.prod(size) <= 2 * math.prod(layer.kernel_size)

    def apply(self, x: Float[Tensor, "b c h w"], bias: Float[Tensor, " k"] | None) -> Float[Tensor, "b k i j"]:
        """The convolution, without a graph."""
        found = x.new_empty(len(x), *self.outside)
        torch.mm(x.flatten(1), self.matrix, out=found.flatten(1))  # no view of a product: it may be changed in place
        return found if bias is None else found.add_(bias[:, None, None])

    def back(self, above: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        """Its transposed map."""
        return (above.flatten(1) @ self.matrix.T).unflatten(1, self.inside)


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    many = torch.is_grad_enabled() and x.device.type == "cpu" and len(x) >= MANY
    if many and ConvolutionMatrix.pays(layer, x.shape[2:]):
        return convolve_by_matrix(x, layer)
    return type(layer).forward(layer, x)


@contextmanager
def products_for_small_maps(model: nn.Module) -> Iterator[nn.Module]:
    """Let the convolutions of a model use `convolve_by_matrix` where that pays: with a graph, on a CPU, on small maps.

    The model is the same function, up to the rounding of sums in another order; it is given back as it was.
    """
    layers = [module for module in model.modules() if is_plain(module) and module.kernel_size != (1, 1)]
    try:
        for layer in layers:
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
        yield model
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
