"""What every attack promises: images within the budget and the box, success measured on what is handed back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from xai_robustness.attacks.budget import Budget
from xai_robustness.attacks.criteria import Criterion
from xai_robustness.attacks.streams import Streams
from xai_robustness.models.modes import borrow
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

ATTACKS = Registry[Callable[..., "Attack"]]("attack")


class BudgetError(AssertionError):
    """An attack left its budget or the box: a mistake in the attack, never in its input."""


@dataclass(frozen=True)
class Attacked:
    """What an attack hands back.

    Attributes:
        images: (N,C,H,W) in [0,1], within the budget; the best iterate of each sample.
        success: (N,) whether the criterion holds on `images`.
        logits: (N,K) of `images`.
        distance: (N,) float64, distance to the original in the budget's norm.
        curve: (N,steps) the attack's loss after each step, where the attack keeps one.
    """

    images: Float[Tensor, "n c h w"]
    success: Bool[Tensor, " n"]
    logits: Float[Tensor, "n k"]
    distance: Float[Tensor, " n"]
    curve: Float[Tensor, "n s"] | None = None


class Attack(ABC):
    """A search for images within a budget that meet a criterion.

    A subclass proposes images in `run`. Calling an attack cannot be overridden: it projects what is proposed, checks
    budget and box, and measures success itself, with the model in evaluation mode and its weights out of the graph.

    Args:
        budget: how far an image may move.
        criterion: what counts as success.
    """

    name = "attack"

    def __init__(self, budget: Budget, criterion: Criterion) -> None:
        self.budget, self.criterion = budget, criterion

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__call__" in cls.__dict__:
            raise TypeError(f"{cls.__name__} must not override __call__, which keeps the promises; override run.")

    @final
    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Shaped[Tensor, "n ..."],
        seed: int = 0,
        ids: Sequence[int] | None = None,
    ) -> Attacked:
        """Attack a batch.

        Args:
            model: classifier from images in [0,1] to logits (N,K); normalises inside. Left as it was.
            images: (N,C,H,W) in [0,1], on the model's device.
            labels: int64 (N,) true classes (wanted classes, if the attack is targeted), or (N,K) multi-label.
            seed: seed of the run.
            ids: sample ids (N,), which random draws follow; by default 0, 1, ...

        Raises:
            InputError: images outside [0,1], or labels that do not fit.
            BudgetError: the attack left its budget (a mistake in the attack).
        """
        _check(type(self).__name__, images, labels)
        origin = images.detach()
        streams = Streams(seed, f"attack/{self.name}", range(len(images)) if ids is None else ids)
        with borrow(model):
            proposed, curve = self.run(model, origin, labels, streams)
            found = self.enforce(proposed.detach(), origin)
            with torch.no_grad():
                logits = model(found)
        return Attacked(found, self.criterion(logits, labels), logits, self.budget.distance(found, origin), curve)

    @abstractmethod
    def run(
        self,
        model: nn.Module,
        origin: Float[Tensor, "n c h w"],
        labels: Shaped[Tensor, "n ..."],
        streams: Streams,
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n s"] | None]:
        """Propose images, and the loss after each step or None."""

    def enforce(self, images: Float[Tensor, "n c h w"], origin: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Clip to the box and the budget, and check both."""
        if self.budget.norm != "fourier":
            images = self.budget.project(images, origin)
        if self.budget.exceeded(images, origin):
            raise BudgetError(f"{type(self).__name__} left its budget {self.budget.norm} {self.budget.eps} or the box.")
        return images


class Best:
    """The best iterate of each sample: successful ones first, then those of the largest loss.

    Args:
        origin: (N,C,H,W) images that are kept until something better comes.
        by_success: whether success comes before the loss.
    """

    def __init__(self, origin: Float[Tensor, "n c h w"], by_success: bool = True) -> None:
        self.images = origin.clone()
        self.loss = torch.full((len(origin),), -torch.inf, device=origin.device)
        self.success = torch.zeros(len(origin), dtype=torch.bool, device=origin.device)
        self.by_success = by_success

    def offer(
        self,
        images: Float[Tensor, "r c h w"],
        loss: Float[Tensor, " r"],
        success: Bool[Tensor, " r"],
        rows: Shaped[Tensor, " r"],
    ) -> None:
        """Take images of the samples `rows` that are better than what was kept; a loss that is NaN never is."""
        held, better = self.success[rows], loss.detach() > self.loss[rows]
        if self.by_success:
            better = (success & ~held) | ((success == held) & better)
        taken = rows[better]
        self.images[taken] = images.detach()[better]
        self.loss[taken] = loss.detach()[better].to(self.loss.dtype)
        self.success[taken] = success[better]


def _check(caller: str, images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or len(images) == 0 or labels.shape[:1] != images.shape[:1] or labels.dtype != torch.int64:
        raise InputError(
            f"The images and labels parameters of {caller} must be (N,C,H,W) and int64 (N,) or (N,K) with N > 0. "
            f"Got {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)} instead."
        )
    low, high = images.amin().item(), images.amax().item()
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"The images parameter of {caller} must lie in [0,1]; the model normalises inside. "
            f"Got values from {low:g} to {high:g} instead."
        )
