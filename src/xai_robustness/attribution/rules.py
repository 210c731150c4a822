"""LRP rules: how a module hands the relevance of its output to its inputs.

Each rule costs one extra forward and one backward of its module at most, where generic implementations pay four or
more, since it also pays for the gradient that it replaces. Numbers equal those of zennit's rules of the same names
[Anders2021]; tests compare them.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

STABILIZER = 1e-6
"""Added to a denominator's absolute value, so that nothing is divided by 0 [Bach2015]."""


def stabilise(values: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """Move values away from 0 by STABILIZER; 0 itself becomes positive."""
    return values + torch.where(values < 0, -STABILIZER, STABILIZER).to(values.dtype)


class Ledger:
    """Relevance that left the network through biases and ZPlus's stabilizer, by sample; conservation counts it."""

    def __init__(self) -> None:
        self.absorbed: Tensor | None = None

    def add(self, share: Float[Tensor, "b k *positions"], constant: Float[Tensor, "..."]) -> None:
        """Book share · constant, summed over all but the batch axis.

        Args:
            share: relevance per unit of output.
            constant: a scalar, (K,), the same at every position, or of the share's shape.
        """
        if constant.ndim == 0:
            total = share.flatten(1).sum(1) * constant
        elif constant.ndim == 1:
            total = share.flatten(2).sum(-1) @ constant if share.ndim > 2 else share @ constant
        else:
            total = (share * constant).flatten(1).sum(1)
        self.absorbed = total if self.absorbed is None else self.absorbed + total


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
        self.original = type(module).forward

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The module's forward, with this rule in place of its gradient."""
        return _WithRule.apply(self, *inputs)

    @abstractmethod
    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor, ...]:
        """Relevance of each input, of the input's shape, from the relevance `above` of the output."""


class _WithRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, *inputs: Tensor) -> Tensor:
        output = rule.original(rule.module, *inputs)
        ctx.rule = rule
        ctx.save_for_backward(*inputs, *([output] if rule.keeps_output else []))
        return output

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, output = (saved[:-1], saved[-1]) if ctx.rule.keeps_output else (saved, None)
        return (None, *ctx.rule.relevance(inputs, output, above))


class Pass(Rule):
    """Elementwise modules hand relevance on unchanged: ReLU, normalisation, batch norm that nothing could absorb."""

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor, ...]:
        """Return `above`."""
        return (above,)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The module's forward; nothing is kept for the backward pass."""
        return _Pass.apply(self, *inputs)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, values: Tensor) -> Tensor:
        return rule.original(rule.module, values)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[None, Tensor]:
        return None, above


class Skip(Rule):
    """A batch norm merged into the layer before it: its input, unchanged and uncopied."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the input."""
        return inputs[0]

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor, ...]:
        """Return `above`."""
        return (above,)


class Epsilon(Rule):
    """Linear layers: R_i = x_i Σ_j w_ji R_j / z_j, z the stabilised output [Bach2015]; the bias takes its share."""

    keeps_output = True

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor, ...]:
        """Relevance of the input (B,K)."""
        assert output is not None and isinstance(self.module, nn.Linear)
        share = above / stabilise(output)
        if self.module.bias is not None:
            self.ledger.add(share, self.module.bias)
        return (inputs[0] * (share @ self.module.weight),)


class ZPlus(Rule):
    """Convolutions: positive contributions alone share the relevance [Bach2015, Montavon2017].

    R_i = Σ_j (x_i w_ij)⁺ R_j / z_j with z_j = Σ_i (x_i w_ij)⁺ + b_j⁺; where the input is nowhere negative, which is so
    behind every ReLU, the products of negative inputs and negative weights are not computed. Where an output has no
    positive contribution at all but relevance (a negative term of a residual sum can), it stays with the stabilizer.
    """

    def __init__(self, module: nn.Module, ledger: Ledger) -> None:
        super().__init__(module, ledger)
        assert isinstance(module, nn.Conv2d)
        self.options = _geometry(module)
        self.weight = module.weight
        self.positive = module.weight.clamp(min=0)
        self.bias = None if module.bias is None else module.bias.clamp(min=0)

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor, ...]:
        """Relevance of the input (B,C,H,W)."""
        x = inputs[0]
        parts = [(x, self.positive)]
        if bool((x < 0).any()):
            parts = [(x.clamp(min=0), self.positive), (x.clamp(max=0), self.weight.clamp(max=0))]
        total = F.conv2d(parts[0][0], self.positive, self.bias, **self.options)
        for values, weight in parts[1:]:
            total = total + F.conv2d(values, weight, None, **self.options)
        share = above / (total + STABILIZER)  # the total is never negative
        self.ledger.add(share, share.new_tensor(STABILIZER) if self.bias is None else self.bias + STABILIZER)
        terms = [v * conv2d_input(x.shape, w, share, **self.options) for v, w in parts]
        return (terms[0] if len(terms) == 1 else terms[0] + terms[1],)


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    """How a convolution slides, as keyword arguments; zero padding in numbers is what the zoo uses."""
    assert conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return {key: getattr(conv, key) for key in ("stride", "padding", "dilation", "groups")}


class Flat(Rule):
    """First layer: every input in reach of an output gets the same share of its relevance [Lapuschkin2019]."""

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor, ...]:
        """Relevance of the input, equal in all channels (of a group)."""
        x, module = inputs[0], self.module
        if isinstance(module, nn.Linear):
            return ((above.sum(-1, keepdim=True) / x.shape[-1]).expand_as(x),)
        assert isinstance(module, nn.Conv2d) and module.groups == 1
        options = _geometry(module)
        weight = torch.ones(1, 1, *module.kernel_size, dtype=x.dtype, device=x.device)
        plane = x.new_ones(1, 1, *x.shape[2:])
        reach = F.conv2d(plane, weight, None, **options) * x.shape[1]
        share = above.sum(1, keepdim=True) / stabilise(reach)
        one = conv2d_input((len(x), 1, *x.shape[2:]), weight, share, **options)
        return (one.expand_as(x),)


class Homogeneous(Rule):
    """Modules that are linear where they stand, up to a constant (pooling by means, insertions): R = x ⊙ ∂y/∂x·R/y.

    A module's `constant(input)` says which part of the output does not scale with the input; it takes its share.
    """

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor, ...]:
        """Relevance of the input."""
        x = inputs[0].detach().requires_grad_()
        with torch.enable_grad():
            y = self.original(self.module, x)
        share = above / stabilise(y.detach())
        (gradient,) = torch.autograd.grad(y, x, share)
        constant = getattr(self.module, "constant", None)
        if constant is not None:
            self.ledger.add(share, constant(inputs[0]))
        return (inputs[0] * gradient,)


class Split(Rule):
    """Sums of two tensors: each gets the relevance in proportion to what it brought."""

    keeps_output = True

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor, ...]:
        """Relevance of both terms."""
        assert output is not None
        share = above / stabilise(output)
        return inputs[0] * share, inputs[1] * share
