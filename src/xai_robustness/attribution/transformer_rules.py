"""LRP rules of attention [Achtibat2024]; what stabilizers and the softmax's Taylor constant take is booked."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.attribution.rules import Ledger, Rule, dot, stabilizer_of
from xai_robustness.models.transformers import Attend


class DetachedAttention(Rule):
    """Attention weights are held constant: relevance flows to the values alone, by the Epsilon rule [Ali2022]."""

    keeps_output = True

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of queries, keys (both 0) and values, (B,T,3K) or each for itself."""
        assert output is not None and isinstance(self.module, Attend)
        constant = stabilizer_of(output)
        share = above / (output + constant)
        self.ledger.add(dot(share, constant))
        q, k, v = self.module.parts(*inputs)
        values = v * (self.module.weights(*inputs).transpose(2, 3) @ heads_of(share, self.module.heads))
        return self.module.packed(torch.zeros_like(q), torch.zeros_like(k), values)


class SoftmaxAttention(Rule):
    """AttnLRP: both factors of a product of matrices get half, the softmax gets x_i (R_i - s_i Σ_j R_j)."""

    keeps_output = True

    def __init__(self, module: nn.Module, ledger: Ledger) -> None:
        super().__init__(module, ledger)
        assert isinstance(module, Attend)
        self.attend = module

    def relevance(self, inputs: tuple[Tensor, ...], output: Tensor | None, above: Tensor) -> tuple[Tensor | None, ...]:
        """Relevance of queries, keys and values, (B,T,3K) or each for itself."""
        assert output is not None
        q, k, v = self.attend.parts(*inputs)
        scale = 1 / math.sqrt(q.shape[3])
        scores = q @ k.transpose(2, 3) * scale
        weights = scores.softmax(3)
        share = heads_of(self._half(above, output), self.attend.heads)
        values = v * (weights.transpose(2, 3) @ share)
        below = self._softmax(scores, weights, weights * (share @ v.transpose(2, 3)))
        half = self._half(below, scores) * scale
        return self.attend.packed(q * (half @ k), k * (half.transpose(2, 3) @ q), values)

    def _half(self, above: Tensor, product: Tensor) -> Tensor:
        """Relevance per unit of a product for each of its two factors; the stabilizer's part is booked."""
        constant = stabilizer_of(product)
        share = above / (2 * product + constant)
        self.ledger.add(dot(share, constant))
        return share

    def _softmax(self, scores: Tensor, weights: Tensor, above: Tensor) -> Tensor:
        """Relevance of the scores; the constant of the softmax's expansion takes Σ_j R_j (1 - x_j + s·x)."""
        mean = (weights * scores).sum(3, keepdim=True)
        self.ledger.add(dot(above, 1 - scores + mean))
        return scores * (above - weights * above.sum(3, keepdim=True))


def heads_of(values: Float[Tensor, "b t k"], heads: int) -> Float[Tensor, "b heads t d"]:
    """Split the channels of tokens into heads."""
    return values.unflatten(2, (heads, -1)).transpose(1, 2)
