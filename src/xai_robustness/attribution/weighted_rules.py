"""LRP rules of convolutions (1-D, 2-D) and linear layers; numbers equal those of zennit's rules of the same names."""

from functools import cached_property

import torch
from torch import Tensor, nn

from xai_robustness.attribution.linearity import Linearity
from xai_robustness.attribution.rules import STABILIZER, Ledger, Rule, dot, stabilizer_of
from xai_robustness.models.small_maps import is_plain
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

    def output(self, *inputs: Tensor) -> Tensor:
        """The layer's output, by the same products as its relevance where these pay."""
        return self.layer.apply(inputs[0], self.module.bias) if is_plain(self.module) else super().output(*inputs)


class BySign(OfLinearity):
    """Layers whose products x_i w_ij are weighed by their sign: the base of ZPlus, AlphaBeta and Gamma.

    A rule has one term, or two; a term shares relevance over z = x⁺·u + x⁻·v + c and is added with its coefficient. In
    the first, u and c raise what is positive and v what is negative; in the second it is the other way round. Where
    the input is nowhere negative, which is so behind every ReLU, the products with x⁻ are not computed.
    """

    n_terms = 2

    never_negative = False
    """Whether z cannot be negative."""

    def weighed(self, values: Tensor, positive: bool) -> Tensor:
        """A weight or bias with the entries of one sign raised; here the others are 0."""
        return values.clamp(min=0) if positive else values.clamp(max=0)

    def coefficient(self, index: int, above: Tensor, output: Tensor | None) -> Tensor:
        """Relevance that term `index` shares out."""
        return above

    @cached_property
    def high(self) -> Linearity:
        """The layer with its positive weights raised."""
        return self.layer.with_weight(self.weighed(self.layer.weight, True))

    @cached_property
    def low(self) -> Linearity:
        """The layer with its negative weights raised."""
        return self.layer.with_weight(self.weighed(self.layer.weight, False))

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of the input."""
        x = inputs[0]
        parts = [x] if bool(x.min() >= 0) else [x.clamp(min=0), x.clamp(max=0)]
        result: Tensor | None = None
        for index in range(self.n_terms):
            maps = [self.high if index == part else self.low for part in range(len(parts))]
            share = self._share(index, parts, maps, self.coefficient(index, above, output))
            for values, linear in zip(parts, maps):
                added = linear.back(share, values).mul_(values)
                result = added if result is None else result.add_(added)
        return (result,)

    def _share(self, index: int, parts: list[Tensor], maps: list[Linearity], above: Tensor) -> Tensor:
        c = self.weighed(self.layer.bias, index == 0) + (STABILIZER if self.never_negative else 0.0)
        total = maps[0].apply(parts[0], c)
        for values, linear in zip(parts[1:], maps[1:]):
            total += linear.apply(values)
        constant = None if self.never_negative else stabilizer_of(total)
        share = torch.div(above, total if constant is None else total.add_(constant), out=total)
        self.ledger.add(self.layer.booked(share, c) + (0.0 if constant is None else dot(share, constant)))
        return share


class ZPlus(BySign):
    """Positive contributions alone share the relevance [Bach2015, Montavon2017]: R_i = Σ_j (x_i w_ij)⁺ R_j / z_j.

    z_j = Σ_i (x_i w_ij)⁺ + b_j⁺. Where an output has no positive contribution at all but relevance (a negative term of
    a residual sum can), it stays with the stabilizer.
    """

    n_terms = 1
    never_negative = True


class AlphaBeta(BySign):
    """Positive contributions share α R, negative ones -β R, α - β = 1; here α = 2, β = 1 [Bach2015]."""

    alpha, beta = 2.0, 1.0

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

    keeps_output = True

    def __init__(self, module: nn.Module, ledger: Ledger, gamma: float = 0.25) -> None:
        super().__init__(module, ledger)
        self.gamma = gamma

    def weighed(self, values: Tensor, positive: bool) -> Tensor:
        """Values + γ times those of one sign."""
        return values + self.gamma * (values.clamp(min=0) if positive else values.clamp(max=0))

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
        weight = self.layer.weight
        self.low, self.high = (torch.as_tensor(bound).to(weight) for bound in (low, high))
        self.maps = [self.layer.with_weight(w) for w in (weight, weight.clamp(min=0), weight.clamp(max=0))]

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of the input."""
        x = inputs[0]
        parts = [(x, 1.0), (self.low.expand_as(x), -1.0), (self.high.expand_as(x), -1.0)]
        total = torch.zeros_like(above)
        for (values, sign), linear in zip(parts, self.maps):
            total += linear.apply(values) * sign
        constant = stabilizer_of(total)
        share = above / (total + constant)
        self.ledger.add(dot(share, constant))
        terms = [v * sign * linear.back(share, x) for (v, sign), linear in zip(parts, self.maps)]
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
        ones = self.layer.with_weight(x.new_ones(1, 1, *self.layer.weight.shape[2:]))
        reach = ones.apply(x.new_ones(1, 1, *x.shape[2:])) * x.shape[1]
        share = above.sum(1, keepdim=True) / (reach + STABILIZER)
        self.ledger.add(share.flatten(1).sum(1) * STABILIZER)
        return (ones.back(share, x[:, :1]).expand_as(x),)
