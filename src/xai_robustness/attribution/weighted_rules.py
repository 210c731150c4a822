"""LRP rules of convolutions (1-D, 2-D) and linear layers; numbers equal those of zennit's rules of the same names."""

from typing import Any

import torch
from torch import Tensor, nn

from xai_robustness.attribution.linearity import Linearity
from xai_robustness.attribution.rules import STABILIZER, Ledger, Rule, dot, stabilizer_of
from xai_robustness.types import InputError


class Epsilon(Rule):
    """Linear layers: R_i = x_i Σ_j w_ji R_j / z_j, z the stabilised output [Bach2015]; the bias takes its share."""

    keeps_output = True

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of the input (B,…,K)."""
        assert output is not None and isinstance(self.module, nn.Linear)
        constant = stabilizer_of(output)
        share = above / (output + constant)
        if self.module.bias is not None:
            constant += self.module.bias
        self.ledger.add(dot(share, constant))
        return (inputs[0] * (share @ self.module.weight),)


class OfLinearity(Rule):
    """Base of rules that put other weights into a layer."""

    def __init__(self, module: nn.Module, ledger: Ledger) -> None:
        super().__init__(module, ledger)
        self.layer = Linearity(module)


class BySign(OfLinearity):
    """Layers whose products x_i w_ij are weighed by their sign: the base of ZPlus, AlphaBeta and Gamma.

    A rule is a list of terms; a term shares relevance over z = x⁺·u + x⁻·v + c and is added with its coefficient. Where
    the input is nowhere negative, which is so behind every ReLU, the products with x⁻ are not computed.
    """

    needs_sign = False
    """Whether `coefficient` looks at the layer's output."""

    def __init__(self, module: nn.Module, ledger: Ledger) -> None:
        super().__init__(module, ledger)
        self.keeps_output = self.needs_sign
        self.terms = [(u.detach(), v.detach(), None if c is None else c.detach()) for u, v, c in self.weights()]

    def weights(self) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Terms: (u for positive inputs, v for negative inputs, constant c)."""
        raise TypeError("BySign is a base class")

    def coefficient(self, index: int, above: Tensor, output: Tensor | None) -> Tensor:
        """Relevance that term `index` shares out."""
        return above

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of the input."""
        x = inputs[0]
        parts = [x] if bool(x.min() >= 0) else [x.clamp(min=0), x.clamp(max=0)]
        result: Tensor | None = None
        for index, (u, v, c) in enumerate(self.terms):
            share = self._share(index, parts, (u, v), c, self.coefficient(index, above, output))
            for values, weight in zip(parts, (u, v)):
                added = self.layer.back(share, weight, values).mul_(values)
                result = added if result is None else result.add_(added)
        return (result,)

    def _share(self, index: int, parts: list[Tensor], weights: tuple[Tensor, ...], c: Any, above: Tensor) -> Tensor:
        total = self.layer.apply(parts[0], weights[0], c)
        for values, weight in zip(parts[1:], weights[1:]):
            total += self.layer.apply(values, weight, None)
        if self.one_sign(index) > 0:  # the total is never negative
            share = torch.div(above, total.add_(STABILIZER), out=total)
            self.ledger.add(self.layer.booked(share, c, STABILIZER))
            return share
        constant = stabilizer_of(total)
        share = torch.div(above, total.add_(constant), out=total)
        self.ledger.add(dot(share, constant) + self.layer.booked(share, c, 0.0))
        return share

    def one_sign(self, index: int) -> int:
        """1 if the total of term `index` is never negative, else 0."""
        return 0


class ZPlus(BySign):
    """Positive contributions alone share the relevance [Bach2015, Montavon2017]: R_i = Σ_j (x_i w_ij)⁺ R_j / z_j.

    z_j = Σ_i (x_i w_ij)⁺ + b_j⁺. Where an output has no positive contribution at all but relevance (a negative term of
    a residual sum can), it stays with the stabilizer.
    """

    def weights(self) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """(w⁺, w⁻, b⁺)."""
        w, b = self.layer.weight, self.layer.bias
        return [(w.clamp(min=0), w.clamp(max=0), None if b is None else b.clamp(min=0))]

    def one_sign(self, index: int) -> int:
        """Never negative."""
        return 1


class AlphaBeta(BySign):
    """Positive contributions share α R, negative ones -β R, α - β = 1; here α = 2, β = 1 [Bach2015]."""

    alpha, beta = 2.0, 1.0

    def weights(self) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """(w⁺, w⁻, b⁺) and (w⁻, w⁺, b⁻)."""
        w, b = self.layer.weight, self.layer.bias
        high, low = w.clamp(min=0), w.clamp(max=0)
        return [
            (high, low, None if b is None else b.clamp(min=0)),
            (low, high, None if b is None else b.clamp(max=0)),
        ]

    def coefficient(self, index: int, above: Tensor, output: Tensor | None) -> Tensor:
        """α R for the first term, -β R for the second."""
        return above * (self.alpha if index == 0 else -self.beta)


class Gamma(BySign):
    """Contributions of the output's sign count 1 + γ times [Montavon2019, Andeol2021]; signed inputs allowed.

    Args:
        module: convolution or linear layer.
        ledger: where constants are booked.
        gamma: how much more they count; 0 is Epsilon.
    """

    needs_sign = True

    def __init__(self, module: nn.Module, ledger: Ledger, gamma: float = 0.25) -> None:
        self.gamma = gamma
        super().__init__(module, ledger)

    def weights(self) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """The terms for positive and for negative outputs."""
        w, b = self.layer.weight, self.layer.bias
        high, low = w + self.gamma * w.clamp(min=0), w + self.gamma * w.clamp(max=0)
        return [
            (high, low, None if b is None else b + self.gamma * b.clamp(min=0)),
            (low, high, None if b is None else b + self.gamma * b.clamp(max=0)),
        ]

    def coefficient(self, index: int, above: Tensor, output: Tensor | None) -> Tensor:
        """R where the output is positive (first term) or negative (second); what lies on zeros of it is booked."""
        assert output is not None
        if index == 0:
            self.ledger.add((above * (output == 0)).flatten(1).sum(1))
        return above * (output > 0 if index == 0 else output < 0)


class Box(OfLinearity):
    """First layer, inputs known to lie in a box [Montavon2017]: z_j = Σ_i x_i w_ij - l_i w_ij⁺ - h_i w_ij⁻.

    Args:
        module: the first convolution.
        ledger: where the stabilizer's part is booked; the bias cancels in z.
        low: smallest possible input, one number a channel, in the units that the layer sees.
        high: largest possible input, likewise.
    """

    def __init__(
        self, module: nn.Module, ledger: Ledger, low: Tensor | float = 0.0, high: Tensor | float = 1.0
    ) -> None:
        super().__init__(module, ledger)
        weight = self.layer.weight.detach()
        self.low, self.high = (torch.as_tensor(bound).to(weight) for bound in (low, high))
        self.weights = (weight, weight.clamp(min=0), weight.clamp(max=0))

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of the input."""
        x = inputs[0]
        parts = [(x, 1.0), (self.low.expand_as(x), -1.0), (self.high.expand_as(x), -1.0)]
        total = torch.zeros_like(above)
        for (values, sign), weight in zip(parts, self.weights):
            total += self.layer.apply(values, weight, None) * sign
        constant = stabilizer_of(total)
        share = above / (total + constant)
        self.ledger.add(dot(share, constant))
        terms = [v * sign * self.layer.back(share, w, x) for (v, sign), w in zip(parts, self.weights)]
        return (terms[0] + terms[1] + terms[2],)


class Flat(OfLinearity):
    """First layer: every input in reach of an output gets the same share of its relevance [Lapuschkin2019]."""

    def __init__(self, module: nn.Module, ledger: Ledger) -> None:
        super().__init__(module, ledger)
        if self.layer.options.get("groups", 1) != 1:
            raise InputError(
                f"The first layer of a model for the Flat rule must have groups=1. Got {module} instead; "
                "take the composite epsilon_plus."
            )

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of the input, equal in all channels."""
        x = inputs[0]
        if isinstance(self.module, nn.Linear):
            return ((above.sum(-1, keepdim=True) / x.shape[-1]).expand_as(x),)
        weight = x.new_ones(1, 1, *self.layer.weight.shape[2:])
        reach = self.layer.apply(x.new_ones(1, 1, *x.shape[2:]), weight, None) * x.shape[1]
        share = above.sum(1, keepdim=True) / (reach + STABILIZER)
        self.ledger.add(share.flatten(1).sum(1) * STABILIZER)
        return (self.layer.back(share, weight, x[:, :1]).expand_as(x),)
