"""Fine-tuning of several candidates in lockstep: one pass through the frozen part of the model serves them all."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.datasets.base import Batch
from xai_robustness.mitigation.base import Candidate, Corrected, Material
from xai_robustness.mitigation.params import FineTuningParams
from xai_robustness.models.inputs import in_memory
from xai_robustness.models.objective import loss_for
from xai_robustness.models.zoo import split
from xai_robustness.progress import progress
from xai_robustness.randomness import torch_rng


@dataclass(frozen=True)
class Step:
    """One batch as a penalty sees it.

    Attributes:
        inputs: what enters the trained part: activations (B,K,…) of the frozen part, or images (B,C,H,W); no graph.
        labels: int64 (B,), or (B,L) for multi-label tasks.
        sample_ids: int64 (B,).
        epoch: number of the epoch, from 0.
        number: number of the batch in the epoch, from 0.
    """

    inputs: Float[Tensor, "b ..."]
    labels: Tensor
    sample_ids: np.ndarray
    epoch: int = 0
    number: int = 0


class Penalty(ABC):
    """A number that fine-tuning is to make small beside the classification loss."""

    @abstractmethod
    def __call__(self, model: nn.Module, step: Step) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        """Return the logits of the batch and the penalty, both differentiable in the weights of `model`."""


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


def finetune(
    candidates: Sequence[Candidate], material: Material, params: FineTuningParams, penalty: Penalty | None
) -> list[Corrected]:
    """Fine-tune one copy of the model for each candidate; all candidates share one layer, or have none.

    The loss is the classification loss of training, with class weights, plus strength times penalty; strength 0 is
    plain fine-tuning. Everything up to the layer is frozen and runs once a batch, without a graph. The trained part
    stays in evaluation mode too: its batch norms keep their running statistics and train their scales and shifts, and
    there is no dropout. So the gradient that is penalised is the gradient of the model as it is used; under batch
    statistics a shift of all samples along the concept direction would cancel out of it. ([Dreyer2023] leave the
    trained part in training mode.)

    A candidate whose loss, gradient, weights or logits are no longer finite is stopped; the others go on.

    Returns:
        The outcomes, in the order of the candidates.
    """
    run = _Lockstep(candidates, material, params, penalty)
    layer = candidates[0].layer
    title = f"correct {candidates[0].method}{' ' + layer if layer else ''}"
    with progress(params.epochs * len(run.train), title) as bar:
        for epoch in range(params.epochs):
            run.train_epoch(epoch, bar.update)
            run.validate()
    return [strand.outcome() for strand in run.strands]


class _Lockstep:
    """The strands of one layer and all that they share."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        material: Material,
        params: FineTuningParams,
        penalty: Penalty | None,
    ) -> None:
        self.params, self.penalty, self.seed = params, penalty, material.seed
        self.device = torch.device(material.device)
        self.train, self.val = in_memory(material.train), in_memory(material.val)
        info = self.train.info
        self.multi_label = info.task == "multi-label"
        self.loss = loss_for(info.task, self.train.labels, info.n_classes, True, self.device)
        layer = candidates[0].layer
        prefix = split(copy.deepcopy(material.model), layer)[0] if layer else nn.Sequential()
        self.prefix = prefix.to(self.device).eval().requires_grad_(False)
        self.strands = [self._strand(candidate, material.model) for candidate in candidates]

    def _strand(self, candidate: Candidate, model: nn.Sequential) -> Strand:
        full = copy.deepcopy(model).to(self.device).eval().requires_grad_(False)
        trained = split(full, candidate.layer)[1] if candidate.layer else full
        weights = list(trained.requires_grad_(True).parameters())
        strand = Strand(candidate, full, trained, weights, make_optimizer(weights, self.params))
        if not weights:
            strand.stopped = f"there are no weights to train after layer '{candidate.layer}'"
        return strand

    @property
    def alive(self) -> list[Strand]:
        """Strands that were not stopped."""
        return [strand for strand in self.strands if strand.stopped is None]

    def train_epoch(self, epoch: int, advance: Callable[[int], object]) -> None:
        """One pass over the biased training images, shuffled by the stream of this epoch."""
        generator = torch_rng(self.seed, "mitigation", "shuffle", epoch)
        order = torch.randperm(len(self.train), generator=generator).numpy()
        for number, batch in enumerate(self.train.batches(self.params.batch_size, order)):
            step = self._step(batch, epoch, number)
            for strand in self.alive:
                self._update(strand, step)
            advance(len(batch.rows))
        for strand in self.alive:
            _close_epoch(strand, epoch)

    def _step(self, batch: Batch, epoch: int, number: int) -> Step:
        with torch.no_grad():
            inputs = self.prefix(batch.images.to(self.device))
        return Step(inputs, batch.labels.to(self.device), self.train.sample_ids[batch.rows], epoch, number)

    def _update(self, strand: Strand, step: Step) -> None:
        strand.optimizer.zero_grad(set_to_none=True)
        value, fit, extra = self._loss(strand, step)
        if not math.isfinite(value.item()):
            strand.stopped = _reason("the loss", value, step)
            return
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(strand.weights, self.params.gradient_clip)
        if not math.isfinite(norm.item()):
            strand.stopped = _reason("the norm of the gradient", norm, step)
            return
        strand.optimizer.step()
        strand.sums += len(step.labels) * np.array([fit.item(), extra.item(), 1.0])

    def _loss(self, strand: Strand, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Loss to minimise, its classification part and the penalty without its strength."""
        strength = strand.candidate.strength
        if self.penalty is None or not strength:
            fit = self.loss(strand.trained(step.inputs), step.labels)
            return fit, fit, torch.zeros_like(fit)
        logits, extra = self.penalty(strand.trained, step)
        fit = self.loss(logits, step.labels)
        return fit + strength * extra, fit, extra

    def validate(self) -> None:
        """Record the loss on biased validation images, and whether a model has collapsed; nothing is chosen by it."""
        alive = self.alive
        parts: list[list[Tensor]] = [[] for _ in alive]
        with torch.inference_mode():
            for batch in self.val.batches(4 * self.params.batch_size):
                inputs = self.prefix(batch.images.to(self.device))
                for strand, collected in zip(alive, parts):
                    collected.append(strand.trained(inputs))
        labels = torch.from_numpy(self.val.labels).to(self.device)
        for strand, collected in zip(alive, parts):
            logits = torch.cat(collected)
            if not bool(torch.isfinite(logits).all()):
                strand.stopped = "the logits of validation images were no longer finite"
                continue
            strand.history[-1]["val_loss"] = self.loss(logits, labels).item()
            strand.collapsed = collapsed(logits.cpu().numpy(), self.multi_label)


def make_optimizer(weights: list[nn.Parameter], params: FineTuningParams) -> torch.optim.Optimizer:
    """The optimiser that the parameters name, in torch's fused form (Adam: a seventh of the time on a CPU)."""
    weights = weights or [nn.Parameter(torch.zeros(1))]
    if params.optimizer == "sgd":
        return torch.optim.SGD(weights, params.lr, params.momentum, weight_decay=params.weight_decay, fused=True)
    kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, params.lr, weight_decay=params.weight_decay, fused=True)


def collapsed(logits: Float[np.ndarray, "n k"], multi_label: bool = False) -> bool:
    """Whether a model gives one and the same answer to every sample.

    Args:
        logits: (N,K).
        multi_label: whether each of the K outputs is a question of its own.

    Example:
        >>> collapsed(np.array([[1.0, 0.0], [2.0, 1.0]]))
        True
    """
    answers = logits > 0 if multi_label else logits.argmax(1)[:, None]
    return bool((answers == answers[:1]).all())


def _reason(what: str, value: Tensor, step: Step) -> str:
    return f"{what} became {value.item():g} in epoch {step.epoch + 1}, step {step.number + 1}"


def _close_epoch(strand: Strand, epoch: int) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in strand.weights):
        strand.stopped = f"a weight was no longer finite after epoch {epoch + 1}"
        return
    loss, extra, seen = strand.sums.tolist()
    strand.history.append({"epoch": epoch + 1, "train_loss": loss / seen, "train_penalty": extra / seen})
    strand.sums = np.zeros(3)
