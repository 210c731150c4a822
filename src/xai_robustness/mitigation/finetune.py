"""Fine-tuning of several candidates: one pass through the frozen part of the model serves them all."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.datasets.base import ImageSet
from xai_robustness.mitigation.base import Candidate, Corrected, Material
from xai_robustness.mitigation.cache import Activations
from xai_robustness.mitigation.objectives import Objective, Penalised, Penalty, Step, Strand
from xai_robustness.mitigation.params import FineTuningParams
from xai_robustness.models.inputs import flip, flip_draws, in_memory
from xai_robustness.models.objective import loss_for
from xai_robustness.models.small_maps import products_for_small_maps
from xai_robustness.models.zoo import split
from xai_robustness.progress import progress
from xai_robustness.randomness import torch_rng


def finetune(
    candidates: Sequence[Candidate],
    material: Material,
    params: FineTuningParams,
    objective: Objective | Penalty | None,
) -> Iterator[Corrected]:
    """Fine-tune one copy of the model for each candidate; all candidates share one layer, or have none.

    The loss is the classification loss of training, with class weights, plus strength times penalty; strength 0 is
    plain fine-tuning. Another objective takes its place. Everything up to the layer is frozen: its activations come
    from the material's cache, and the candidates are trained one after another, so that memory holds one optimiser
    however many there are; without a cache it runs once a batch for all candidates in lockstep, without a graph. The
    trained part stays in evaluation mode too: its batch norms keep their running statistics and train their scales and
    shifts, and there is no dropout. So the gradient that is penalised is the gradient of the model as it is used; under
    batch statistics a shift of all samples along the concept direction would cancel out of it. ([Dreyer2023] leave the
    trained part in training mode.)

    A candidate whose loss, gradient, weights or logits are no longer finite is stopped; the others go on.

    Yields:
        The outcomes, in the order of the candidates.
    """
    if not candidates:
        return
    chosen = objective if isinstance(objective, Objective) else Penalised(objective)
    run = _Lockstep(candidates[0].layer, material, params, chosen)
    groups = [[candidate] for candidate in candidates] if run.nothing_to_share else [list(candidates)]
    layer = candidates[0].layer
    title = f"correct {candidates[0].method}{' ' + layer if layer else ''}"
    with progress(params.epochs * len(run.train) * len(groups), title) as bar:
        for group in groups:
            run.start(group)
            with ExitStack() as stack:
                for strand in run.strands:
                    stack.enter_context(products_for_small_maps(strand.trained))
                for epoch in range(params.epochs):
                    run.train_epoch(epoch, bar.update)
                    run.validate()
            yield from run.outcomes()


class _Lockstep:
    """The strands that are trained together, and all that those of one layer share."""

    def __init__(self, layer: str | None, material: Material, params: FineTuningParams, objective: Objective) -> None:
        self.layer, self.model = layer, material.model
        self.params, self.objective, self.seed = params, objective, material.seed
        self.device = torch.device(material.device)
        self.train, self.val = in_memory(material.train), in_memory(material.val)
        info = self.train.info
        self.multi_label = info.task == "multi-label"
        self.loss = loss_for(info.task, self.train.labels, info.n_classes, True, self.device)
        prefix = split(copy.deepcopy(material.model), layer)[0] if layer else nn.Sequential()
        self.prefix = prefix.to(self.device).eval().requires_grad_(False)
        self.kept: dict[str, Activations | None] = {}
        if layer and material.cache:
            flips = {"train": params.augment, "val": False}
            sets = {"train": self.train, "val": self.val}
            self.kept = {key: material.cache.find(key, sets[key], layer, flips[key]) for key in sets}
        self.strands: list[Strand] = []

    @property
    def nothing_to_share(self) -> bool:
        """Whether strands gain nothing from being trained together."""
        return self.layer is None or self.kept.get("train") is not None

    def start(self, candidates: Sequence[Candidate]) -> None:
        """Give each candidate a strand of its own, in place of those there were."""
        self.strands = []
        self.strands = [self._strand(candidate) for candidate in candidates]

    def outcomes(self) -> Iterator[Corrected]:
        """What became of the strands, in their order; each is let go before the next."""
        while self.strands:
            yield self.strands.pop(0).outcome()

    def _strand(self, candidate: Candidate) -> Strand:
        full = copy.deepcopy(self.model).to(self.device).eval().requires_grad_(False)
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
        flips = flip_draws(len(self.train), self.seed, epoch) if self.params.augment else None
        for number, start in enumerate(range(0, len(order), self.params.batch_size)):
            rows = order[start : start + self.params.batch_size]
            step = self._step(rows, epoch, number, None if flips is None else flips[rows])
            for strand in self.alive:
                self._update(strand, step)
            advance(len(rows))
        for strand in self.alive:
            _close_epoch(strand, epoch)

    def _step(self, rows: np.ndarray, epoch: int, number: int, flips: Tensor | None) -> Step:
        inputs = self._inputs("train", self.train, rows, flips)
        labels = torch.from_numpy(self.train.labels[rows]).to(self.device)
        return Step(inputs, labels, self.train.sample_ids[rows], epoch, number, flips)

    def _inputs(self, key: str, images: ImageSet, rows: np.ndarray, flips: Tensor | None = None) -> Tensor:
        """Activations of the frozen part, from the cache if there, without a graph."""
        kept = self.kept.get(key)
        if kept is not None:
            return kept.take(rows, flips).to(self.device)
        batch = images.tensor(rows)
        with torch.no_grad():
            return self.prefix((batch if flips is None else flip(batch, flips)).to(self.device))

    def _update(self, strand: Strand, step: Step) -> None:
        strand.optimizer.zero_grad(set_to_none=True)
        value, fit, extra = self.objective(strand, step, self.loss)
        if not math.isfinite(value.item()):
            strand.stopped = _reason("the loss", value, step)
            return
        value.backward(inputs=strand.weights)  # of the activations nobody needs it
        norm = torch.nn.utils.clip_grad_norm_(strand.weights, self.params.gradient_clip)
        if not math.isfinite(norm.item()):
            strand.stopped = _reason("the norm of the gradient", norm, step)
            return
        strand.optimizer.step()
        strand.optimizer.zero_grad(set_to_none=True)
        strand.sums += len(step.labels) * np.array([fit.item(), extra.item(), 1.0])

    def validate(self) -> None:
        """Record the loss on biased validation images, and whether a model has collapsed; nothing is chosen by it."""
        alive = self.alive
        parts: list[list[Tensor]] = [[] for _ in alive]
        with torch.inference_mode():
            size = 4 * self.params.batch_size
            for start in range(0, len(self.val), size):
                inputs = self._inputs("val", self.val, np.arange(start, min(start + size, len(self.val))))
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
