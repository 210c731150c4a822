"""What fine-tuning minimises for a candidate, and what it sees of a batch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xai_robustness.mitigation.base import Candidate, Corrected
from xai_robustness.models.objective import Loss


@dataclass(frozen=True)
class Step:
    """One batch as an objective sees it.

    Attributes:
        inputs: what enters the trained part: activations (B,K,…) of the frozen part, or images (B,C,H,W); no graph.
        labels: int64 (B,), or (B,L) for multi-label tasks.
        sample_ids: int64 (B,).
        epoch: number of the epoch, from 0.
        number: number of the batch in the epoch, from 0.
        flips: bool (B,2), which images were mirrored left to right and top to bottom; None: none was.
    """

    inputs: Float[Tensor, "b ..."]
    labels: Tensor
    sample_ids: np.ndarray
    epoch: int = 0
    number: int = 0
    flips: Bool[Tensor, "b 2"] | None = None


@dataclass(eq=False)
class Strand:
    """One candidate under training.

    Attributes:
        candidate: which one.
        full: the whole model.
        trained: the part of it after the candidate's layer.
        weights: what is trained.
        optimizer: over `weights`.
        history: one record a finished epoch.
        stopped: why it was stopped, or None.
        collapsed: whether it gave one answer for all validation images, or None.
        sums: of loss and penalty over the samples of this epoch, and their number.
    """

    candidate: Candidate
    full: nn.Sequential
    trained: nn.Sequential
    weights: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
    collapsed: bool | None = None
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def outcome(self) -> Corrected:
        """What has become of the candidate."""
        model = None if self.stopped else self.full.cpu().eval().requires_grad_(True)
        return Corrected(self.candidate, model, self.stopped, self.collapsed, tuple(self.history))


class Objective(ABC):
    """What one step minimises for one candidate."""

    @abstractmethod
    def __call__(self, strand: Strand, step: Step, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Value to minimise, its classification part, and what else is in it without its strength.

        Args:
            strand: the candidate, with its strength.
            step: the batch.
            loss: the classification loss of training, with class weights.
        """


class Penalty(ABC):
    """A number that fine-tuning is to make small beside the classification loss."""

    @abstractmethod
    def __call__(self, model: nn.Module, step: Step) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        """Return the logits of the batch and the penalty, both differentiable in the weights of `model`."""


class Penalised(Objective):
    """Classification loss plus strength times penalty; strength 0, or no penalty, is plain fine-tuning.

    Args:
        penalty: the penalty, or None.
    """

    def __init__(self, penalty: Penalty | None = None) -> None:
        self.penalty = penalty

    def __call__(self, strand: Strand, step: Step, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Loss plus penalty."""
        strength = strand.candidate.strength
        if self.penalty is None or not strength:
            fit = loss(strand.trained(step.inputs), step.labels)
            return fit, fit, torch.zeros_like(fit)
        logits, extra = self.penalty(strand.trained, step)
        fit = loss(logits, step.labels)
        return fit + strength * extra, fit, extra
