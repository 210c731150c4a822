"""LRP rules: how a module hands the relevance of its output to its inputs.

Each rule costs one extra forward and one backward of its module at most, where generic implementations pay four or
more, since it also pays for the gradient that it replaces. Numbers equal those of zennit's rules of the same names
[Anders2021]; tests compare them. Rules of weighted layers are in `weighted_rules`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

STABILIZER = 1e-6
"""Added to a denominator's absolute value, so that nothing is divided by 0 [Bach2015]."""

BLOCK = 2**16
"""Numbers that fit into a processor's cache several times."""


def stabilizer_of(values: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """STABILIZER with the sign of each value (either sign for 0)."""
    return torch.full_like(values, STABILIZER).copysign_(values)


class Ledger:
    """Relevance that left the network through biases, stabilizers and other constants, by sample.

    Conservation means that a layer's relevance and what was booked above it sum to the explained output.
    """

    def __init__(self) -> None:
        self.absorbed: Tensor | None = None

    def add(self, taken: Float[Tensor, " b"]) -> None:
        """Book what a constant took from each sample."""
        self.absorbed = taken if self.absorbed is None else self.absorbed + taken


def dot(share: Float[Tensor, " b *shape"], values: Float[Tensor, " b *shape"]) -> Float[Tensor, " b"]:
    """Sum of share · values over all but the batch axis, without a tensor of the products."""
    return torch.linalg.vecdot(share.flatten(1), values.flatten(1))


def blocks_of(values: Float[Tensor, " b *shape"]) -> Iterator[slice]:
    """Rows that fit into a processor's cache, so that steps over them need not go through memory; on a GPU all rows."""
    rows = max(1, BLOCK * len(values) // max(1, values.numel())) if values.device.type == "cpu" else max(1, len(values))
    return (slice(start, start + rows) for start in range(0, len(values), rows))


class Rule(ABC):
    """A rule attached to one module while LRP runs.

    Args:
        module: the module, already in canonical form; what depends on its weights alone is computed here, once.
        ledger: where relevance taken by constants is booked.
    """

    keeps_output = False
    """Whether `relevance` needs the module's output."""

    def __init__(self, module: nn.Module, ledger: Ledger) -> None:
        self.module = module
        self.ledger = ledger

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The module's forward, with this rule in place of its gradient."""
        return _WithRule.apply(self, *inputs)

    def output(self, *inputs: Tensor) -> Tensor:
        """The module's own output."""
        return type(self.module).forward(self.module, *inputs)

    @abstractmethod
    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of each input, of its shape (None: none), from the relevance `above` of the output.

        `above` belongs to autograd and is never written to.
        """


class _WithRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, *inputs: Tensor) -> Tensor:
        output = rule.output(*inputs)
        ctx.rule = rule
        ctx.save_for_backward(*inputs, *([output] if rule.keeps_output else []))
        return output

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, output = (saved[:-1], saved[-1]) if ctx.rule.keeps_output else (saved, None)
        return (None, *ctx.rule.relevance(inputs, output, above))


class Pass(Rule):
    """Elementwise modules hand relevance on unchanged: activations, normalisation, batch norm nothing could absorb.

    Layer norm too: its Taylor expansion gives this identity rule [Achtibat2024]. Of several inputs the first gets all:
    of a signal and its gate the signal [Pahde2025].
    """

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Return `above`."""
        return (above,)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The module's forward; nothing is kept for the backward pass."""
        return _Pass.apply(self, *inputs)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, *inputs: Tensor) -> Tensor:
        ctx.n_inputs = len(inputs)
        return rule.output(*inputs)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        return (None, above, *[None] * (ctx.n_inputs - 1))


class Skip(Rule):
    """A module that does nothing, as a batch norm merged into the layer before it: its input, uncopied."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the input."""
        return inputs[0]

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Return `above`."""
        return (above,)


class Homogeneous(Rule):
    """Modules that are linear where they stand, up to a constant (pooling by means, insertions): R = x ⊙ ∂y/∂x·R/y.

    A module's `constant(input)` says which part of the output does not scale with the input; it takes its share.
    """

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of the input."""
        x = inputs[0].detach().requires_grad_()
        with torch.enable_grad():
            y = self.output(x)
        constant = stabilizer_of(y.detach())
        share = above / (y.detach() + constant)
        (gradient,) = torch.autograd.grad(y, x, share)
        own = getattr(self.module, "constant", None)
        if own is not None:
            constant = constant + own(inputs[0])
        self.ledger.add(dot(share, constant))
        return (inputs[0] * gradient,)


class Split(Rule):
    """Sums of two tensors: each gets the relevance in proportion to what it brought."""

    keeps_output = True

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of both terms."""
        assert output is not None
        found = tuple(torch.empty_like(term) for term in inputs)
        taken = []
        for rows in blocks_of(output):
            constant = stabilizer_of(output[rows])
            share = output[rows] + constant
            torch.div(above[rows], share, out=share)
            taken.append(dot(share, constant))
            for term, result in zip(inputs, found):
                torch.mul(term[rows], share, out=result[rows])
        self.ledger.add(torch.cat(taken))
        return found


class MaxPool(Rule):
    """Max pooling: the largest input of a window gets all. It is searched with channels last, where a CPU is faster."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The largest inputs."""
        x, module = inputs[0], self.module
        assert isinstance(module, nn.MaxPool2d)
        # a subclass may pool otherwise
        plain = type(module).forward is nn.MaxPool2d.forward and not module.return_indices
        return _MaxPool.apply(x, module) if plain and x.device.type == "cpu" else self.output(x)

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Not called: the gradient of the maximum moves relevance to where it was."""
        return (above,)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.MaxPool2d) -> Tensor:
        stride = module.kernel_size if module.stride is None else module.stride
        ctx.options = [_pair(o) for o in (module.kernel_size, stride, module.padding, module.dilation)]
        ctx.ceil_mode = module.ceil_mode
        last = x.contiguous(memory_format=torch.channels_last)
        largest, places = torch.ops.aten.max_pool2d_with_indices(last, *ctx.options, ctx.ceil_mode)
        ctx.save_for_backward(x, places.contiguous())
        return largest.contiguous()

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        x, places = ctx.saved_tensors
        back = torch.ops.aten.max_pool2d_with_indices_backward
        return back(above.contiguous(), x, *ctx.options, ctx.ceil_mode, places), None


def _pair(option: int | tuple[int, ...]) -> list[int]:
    return [option, option] if isinstance(option, int) else list(option)
