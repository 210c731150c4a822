"""Convolutions over maps of few positions as products of matrices, which hold no padding."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import product
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

WORTH = 2**17
"""Samples times weights of one tap, for each position of the output, from which products pay; found by measuring."""

Triples = tuple[tuple[int, int, int], ...]


@cache
def _triples(size: tuple[int, ...], outside: tuple[int, ...], kernel: tuple[int, ...], *options: Any) -> Triples:
    """Numbers of the position in the input, of the tap, and of the position in the output that this tap joins."""
    inside = {at: number for number, at in enumerate(product(*map(range, size)))}
    found = []
    for number, tap in enumerate(product(*map(range, kernel))):
        for to_number, to in enumerate(product(*map(range, outside))):
            at = tuple(i * s - p + t * d for i, t, s, p, d in zip(to, tap, *options))
            if at in inside:
                found.append((inside[at], number, to_number))
    return tuple(found)


def _triples_of(layer: nn.Conv2d, size: Sequence[int]) -> Triples:
    outside = tuple(_output_size(size, layer))
    return _triples(tuple(size), outside, layer.kernel_size, layer.stride, _padding(layer), layer.dilation)


X, TAPS, Y = range(3)
"""What a convolution's triples join: positions of the input (B,P,C), taps (T,K,C), positions of the output (B,Q,K)."""


class _Joined(torch.autograd.Function):
    """Gradient of sum over triples of y[:, q] . (taps[t] x[:, p]) in one of x, taps, y; the other two are given.

    In y this is a convolution, in x its transposed map, in taps the gradient of its weights: the derivatives of each
    are the other two, to any order.
    """

    @staticmethod
    def forward(ctx: Any, wanted: int, count: int, triples: Triples, *given: Tensor) -> Tensor:
        """Sum, for each of the `count` positions or taps of what is wanted, the products of the other two."""
        ctx.wanted, ctx.triples = wanted, triples
        ctx.save_for_backward(*given)
        return _products(wanted, count, triples, *given)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        """The same for each of the two that were given."""
        names = [name for name in (X, TAPS, Y) if name != ctx.wanted]
        known = dict(zip(names, ctx.saved_tensors)) | {ctx.wanted: above.contiguous()}
        found: list[Tensor | None] = []
        for name, needed in zip(names, ctx.needs_input_grad[3:]):
            count = known[name].shape[0 if name == TAPS else 1]
            given = [known[other] for other in (X, TAPS, Y) if other != name]
            found.append(_Joined.apply(name, count, ctx.triples, *given) if needed else None)
        return None, None, None, *found


def _products(wanted: int, count: int, triples: Triples, first: Tensor, second: Tensor) -> Tensor:
    if wanted == TAPS:  # of x and y
        found = first.new_empty(count, second.shape[2], first.shape[2])
    elif wanted == X:  # of taps and y
        found = second.new_empty(len(second), count, first.shape[2])
    else:  # of x and taps
        found = first.new_empty(len(first), count, second.shape[1])
    places = found if wanted == TAPS else found.transpose(0, 1)
    seen: set[int] = set()
    for p, t, q in triples:
        number = (p, t, q)[wanted]
        if wanted == TAPS:
            pair = second[:, q].T, first[:, p]
        elif wanted == X:
            pair = second[:, q], first[t]
        else:
            pair = first[:, p], second[t].T
        torch.addmm(places[number], *pair, beta=int(number in seen), out=places[number])
        seen.add(number)
    for number in set(range(count)) - seen:
        places[number].zero_()
    return found


def products_pay(layer: nn.Conv2d, weight: Float[Tensor, "k c h w"], x: Float[Tensor, "b c h w"]) -> bool:
    """Whether `convolve_by_products` is faster than torch: on a CPU, many samples, many channels, few positions.

    Where autocast has changed the type of the input it is not used.
    """
    if x.device.type != "cpu" or x.dtype != weight.dtype or weight.shape[2:] == (1, 1):
        return False
    return len(x) * weight[..., 0, 0].numel() >= WORTH * math.prod(_output_size(x.shape[2:], layer))


def by_taps(weight: Float[Tensor, "k c h w"]) -> Float[Tensor, "k c h w"]:
    """The same weight, lying tap by tap in memory: for many calls of products, which copy any other."""
    return weight.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)


def convolve_by_products(
    x: Float[Tensor, "b c h w"], layer: nn.Conv2d, weight: Float[Tensor, "k c h w"], bias: Tensor | None
) -> Float[Tensor, "b k i j"]:
    """A convolution as one product for each tap and position that it reaches, differentiable to any order.

    Nothing is spent on padding, which is most of what a 3 x 3 kernel meets on a map of 2 x 2. With 512 channels on such
    maps and batches of 64, one core takes a third of the time of torch's convolution, and 0.4 of it where gradients of
    gradients are trained.

    Args:
        x: (B,C,H,W).
        layer: what `is_plain` calls plain; only its geometry counts.
        weight: (K,C,h,w).
        bias: (K,), or none.
    """
    outside = _output_size(x.shape[2:], layer)
    given = _positions(x), _taps(weight)
    found = _Joined.apply(Y, math.prod(outside), _triples_of(layer, x.shape[2:]), *given)
    found = found.transpose(1, 2).unflatten(2, outside)
    return found if bias is None else found + bias[:, None, None]


def back_by_products(
    above: Float[Tensor, "b k i j"], layer: nn.Conv2d, weight: Float[Tensor, "k c h w"], size: Sequence[int]
) -> Float[Tensor, "b c h w"]:
    """The transposed map of `convolve_by_products`, to maps of `size` (H,W)."""
    given = _taps(weight), _positions(above)
    found = _Joined.apply(X, math.prod(size), _triples_of(layer, size), *given)
    return found.transpose(1, 2).unflatten(2, tuple(size))


def _positions(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()


def _taps(weight: Tensor) -> Tensor:
    return weight.permute(2, 3, 0, 1).flatten(0, 1).contiguous()


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


class _WhereItPays:
    """A convolution's forward, by products where they pay; a constant weight is laid by taps once."""

    def __init__(self, layer: nn.Conv2d, constant: bool) -> None:
        self.layer, self.constant = layer, constant

    @cached_property
    def _laid(self) -> Tensor:
        return by_taps(self.layer.weight)

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not products_pay(layer, layer.weight, x):
            return type(layer).forward(layer, x)
        return convolve_by_products(x, layer, self._laid if self.constant else layer.weight, layer.bias)


@contextmanager
def products_for_small_maps(model: nn.Module, constant: bool = False) -> Iterator[nn.Module]:
    """Let the convolutions of a model use `convolve_by_products` where that pays.

    The model is the same function, up to the rounding of sums in another order; it is given back as it was.
    With `constant` no weight changes meanwhile, and each is laid out once. (Whether one changed cannot be seen: torch's
    fused optimizers leave a tensor's version as it was.)
    """
    layers = [module for module in model.modules() if is_plain(module) and module.kernel_size != (1, 1)]
    earlier = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = _WhereItPays(layer, constant)  # type: ignore[method-assign, assignment]
        yield model
    finally:
        for layer, forward in zip(layers, earlier):
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward  # type: ignore[method-assign]
