"""When an attack has succeeded: criteria that can be joined with `&`, and losses that lead there."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from xai_robustness.types import InputError

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B,K) and labels to one number a sample (B,), which an attack makes large."""


class Criterion(ABC):
    """A yes or no for each sample from its logits and its label."""

    @abstractmethod
    def __call__(self, logits: Float[Tensor, "b k"], labels: Shaped[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
        """Whether the attack has succeeded on each sample."""

    def __and__(self, other: "Criterion") -> "Criterion":
        return _Both(self, other)


class _Both(Criterion):
    def __init__(self, one: Criterion, other: Criterion) -> None:
        self.one, self.other = one, other

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.one(logits, labels) & self.other(logits, labels)


def agrees(logits: Float[Tensor, "b k"], labels: Shaped[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
    """Whether the prediction equals the label (B,), or all labels (B,K) of a multi-label task (logit > 0)."""
    if labels.ndim == 2:
        return ((logits > 0) == labels.bool()).all(1)
    return logits.argmax(1) == labels


class Misclassified(Criterion):
    """The prediction is not the label; for a multi-label task, at least one is wrong."""

    def __call__(self, logits: Float[Tensor, "b k"], labels: Shaped[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
        """Whether the label is missed."""
        return ~agrees(logits, labels)


class Reached(Criterion):
    """The prediction is the label, which is the class that a targeted attack wants, or one that it must keep."""

    def __call__(self, logits: Float[Tensor, "b k"], labels: Shaped[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
        """Whether the label is predicted."""
        return agrees(logits, labels)


class Confident(Criterion):
    """The predicted class has at least this probability.

    Args:
        probability: in [0,1], of the softmax.
    """

    def __init__(self, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise InputError(f"The probability parameter of Confident must be in [0,1]. Got {probability} instead.")
        self.probability = probability

    def __call__(self, logits: Float[Tensor, "b k"], labels: Shaped[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
        """Whether the largest probability is large enough."""
        return logits.softmax(1).amax(1) >= self.probability


def cross_entropy(logits: Float[Tensor, "b k"], labels: Shaped[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Cross entropy of each sample; for multi-label tasks the sum of the binary ones."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").sum(1)
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Float[Tensor, "b k"], labels: Shaped[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Largest logit of another class minus the label's [Carlini2017]; positive where the label is missed.

    For multi-label tasks the largest signed miss over the labels.
    """
    if labels.ndim == 2:
        return (logits * (1 - 2 * labels.to(logits.dtype))).amax(1)
    own = F.one_hot(labels, logits.shape[1]).bool()
    return torch.where(own, -torch.inf, logits).amax(1) - logits[own]


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}
