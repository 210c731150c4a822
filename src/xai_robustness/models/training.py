"""Training that goes on after a kill and ends with the same bytes as an undisturbed run.

Every random decision of an epoch comes from streams named by the run's seed and the epoch; all else that the next
epoch needs (weights, batch-norm statistics, optimizer, best epoch) is saved, whole or not at all, after each epoch.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from xai_robustness.datasets.base import ImageSet
from xai_robustness.models.adversarial import FreeSteps, TrainingAttack
from xai_robustness.models.checkpoint import (
    DESCRIPTION,
    build_from,
    describe,
    load_description,
    load_weights,
    save_model,
    save_tensors,
    write_atomically,
)
from xai_robustness.models.inputs import channel_statistics, flip, flip_draws, in_memory
from xai_robustness.models.modes import borrow
from xai_robustness.models.objective import SCORES, loss_for, scores
from xai_robustness.models.phases import Phases
from xai_robustness.models.pretrained import weights_file
from xai_robustness.models.small_maps import products_for_small_maps
from xai_robustness.models.training_params import TrainingParams as TrainingParams
from xai_robustness.models.training_params import plateau_factor
from xai_robustness.models.transforms import Mixing, Transforms
from xai_robustness.models.zoo import ModelParams
from xai_robustness.progress import progress
from xai_robustness.randomness import seed_for, torch_rng
from xai_robustness.types import InputError

HISTORY, STATE, BEST = "history.csv", ".state.pt", ".best.safetensors"


@dataclass
class Progress:
    """What training knows after an epoch, beside the weights.

    Attributes:
        epoch: last finished epoch.
        best: balanced accuracy and negative loss of the best epoch so far.
        best_epoch: that epoch.
        history: rows of `history.csv`.
    """

    epoch: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class TrainingJob:
    """Trains a classifier into a folder; `write` can be killed at any moment and called again.

    Args:
        model: architecture.
        train: biased training images; channel statistics and class weights come from them.
        val: biased validation images, for early stopping and the choice of the epoch.
        params: how to train.
        seed: seed of the run: initial weights, order, augmentation, dropout.
        device: where to train.
        attack: makes the images of adversarial training, if the parameters ask for it.
    """

    def __init__(
        self,
        model: ModelParams,
        train: ImageSet,
        val: ImageSet,
        params: TrainingParams,
        seed: int,
        device: str,
        attack: TrainingAttack | None = None,
    ) -> None:
        self.model, self.train, self.val = model, train, val
        self.params, self.seed, self.device = params, seed, torch.device(device)
        self.attack = attack if params.adversarial.active else None
        if params.adversarial.active and attack is None:
            raise InputError(
                "The attack parameter of TrainingJob must be an attack where training.adversarial asks for one. "
                "Got None instead; pass attacks.training.training_attack(params.adversarial)."
            )
        self.augmentation = params.corruptions.augmentation()
        _check_recipe(params, train)
        if self.augmentation is not None and train.is_signal:
            raise InputError(
                "The train parameter of TrainingJob must be images where training.corruptions asks for corruptions. "
                "Got signals instead; set training.corruptions.table to null."
            )

    def write(self, folder: Path) -> None:
        """Train, or take the given checkpoint, and leave `model.safetensors`, `model.json` and `history.csv`.

        The history has columns epoch, split ("train" from the training batches as they came, "val"), and SCORES. An
        adversarial training adds "val/adversarial", attacked validation images, which then choose the epoch.

        Raises:
            InputError: a checkpoint that does not fit, or a loss that is not finite.
        """
        folder.mkdir(parents=True, exist_ok=True)
        train, val = in_memory(self.train), in_memory(self.val)
        description = self._description(train)
        if not self._finished(folder, description):
            model = build_from(description, self.seed)
            if self.params.checkpoint is None:
                if self.params.start is not None:
                    load_weights(weights_file(self.params.start, self.model.name), model, new_head=True)
                history = _Run(self, model, train, val, description).finish(folder)
                model.load_state_dict(load_file(folder / BEST))
            else:
                load_weights(weights_file(self.params.checkpoint, self.model.name), model)
                history = []
            table = pd.DataFrame(history, columns=["epoch", "split", *SCORES])
            write_atomically(folder / HISTORY, table.to_csv(index=False))
            save_model(model, description, folder)
        (folder / STATE).unlink(missing_ok=True)  # first: without it the folder counts as finished
        for leftover in (folder / BEST, *folder.glob("*.part")):
            leftover.unlink(missing_ok=True)

    def _finished(self, folder: Path, description: dict[str, Any]) -> bool:
        """Whether an earlier call wrote everything but was killed before or after it removed its state."""
        if not (folder / DESCRIPTION).exists() or (folder / STATE).exists():
            return False
        return load_description(folder) == {**description, "insertions": []}

    def _description(self, train: ImageSet) -> dict[str, Any]:
        mean, std = self.model.mean, self.model.std
        if mean is None or std is None:
            mean, std = channel_statistics(train)
        described = describe(self.model, self.train.info.n_classes, self.train.image_shape, mean, std)
        training = self.params.result_values()
        return {**described, "dataset": self.train.info.name, "training": training, "seed": self.seed}


def _check_recipe(params: TrainingParams, train: ImageSet) -> None:
    """Refuse what a recipe asks for and the samples or labels cannot have."""
    if train.is_signal and (params.policy is not None or params.random_erasing):
        raise InputError(
            f"The policy and random_erasing parameters of training must be null and 0 for signals. "
            f"Got {params.policy} and {params.random_erasing} instead."
        )
    if train.info.task == "multi-label" and (params.mixes or params.label_smoothing):
        raise InputError(
            "The mixup, cutmix and label_smoothing parameters of training must be 0 where samples have several "
            f"labels. Got {params.mixup}, {params.cutmix} and {params.label_smoothing} instead."
        )


class _Run:
    """One training run in a folder: epochs, state after each, the best epoch's weights."""

    def __init__(
        self, job: TrainingJob, model: nn.Sequential, train: ImageSet, val: ImageSet, description: dict[str, Any]
    ) -> None:
        self.params, self.seed, self.device = job.params, job.seed, job.device
        self.model, self.train, self.val = model.to(job.device), train, val
        self.phases = Phases(model, job.params.frozen_to, job.params.head_epochs)
        self.optimizer = make_optimizer(model, job.params)
        self.attack, self.augmentation, adversarial = job.attack, job.augmentation, job.params.adversarial
        self.free = FreeSteps(job.attack, adversarial.steps) if job.attack and adversarial.method == "free" else None
        self.identity = json.dumps(description, sort_keys=True)
        info, params = train.info, job.params
        weighted = params.class_weights
        erases = params.policy is not None or params.random_erasing > 0
        self.transforms = Transforms(params.policy, params.random_erasing, train.image_shape[1:]) if erases else None
        self.mixing = Mixing(params.mixup, params.cutmix, info.n_classes) if params.mixes else None
        self.loss = loss_for(info.task, train.labels, info.n_classes, weighted, job.device, params.label_smoothing)
        self.cpu_loss = loss_for(info.task, train.labels, info.n_classes, weighted, "cpu")

    def finish(self, folder: Path) -> list[dict[str, Any]]:
        """Train from the last saved epoch to the end; returns the history."""
        state = self._resume(folder)
        total = self.params.total_epochs * len(self.train)
        bar = progress(total, "train", done=state.epoch * len(self.train))
        with products_for_small_maps(self.model), bar:
            while state.epoch < self.params.total_epochs and not self._stalled(state):
                epoch = state.epoch + 1
                rows = {"train": self._train_epoch(epoch, bar, self._reduction(state)), "val": self._validate()}
                if self.attack is not None:
                    rows["val/adversarial"] = self._validate_attacked(self.attack)
                bar.set_postfix(epoch=epoch, val_balanced_accuracy=f"{rows['val']['balanced_accuracy']:.3f}")
                state = self._record(state, epoch, rows, folder)
        return state.history

    def _stalled(self, state: Progress) -> bool:
        return self.params.patience is not None and state.epoch - state.best_epoch >= self.params.patience

    def _record(self, state: Progress, epoch: int, rows: dict[str, dict[str, float]], folder: Path) -> Progress:
        """Save the best weights first, then the state: a kill between the two repeats this epoch and nothing else."""
        history = state.history + [{"epoch": epoch, "split": split, **values} for split, values in rows.items()]
        judged = rows.get("val/adversarial", rows["val"])
        reached = (judged["balanced_accuracy"], -judged["loss"])
        best, best_epoch = state.best, state.best_epoch
        weights = self.model.state_dict()
        if reached > state.best:
            best, best_epoch = reached, epoch
            save_tensors({key: value.detach().cpu().contiguous() for key, value in weights.items()}, folder / BEST)
        state = Progress(epoch, best, best_epoch, history)
        saved = {"identity": self.identity, "model": weights, "optimizer": self.optimizer.state_dict()}
        partial = folder / f"{STATE}.part"
        torch.save({**saved, "progress": asdict(state)}, partial)
        partial.replace(folder / STATE)
        return state

    def _resume(self, folder: Path) -> Progress:
        """Load the state that an interrupted run of the same job left, if there is one."""
        if not (folder / STATE).exists():
            return Progress()
        saved = torch.load(folder / STATE, map_location=self.device, weights_only=True)
        if saved["identity"] != self.identity:
            return Progress()
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        return Progress(**saved["progress"])

    def _reduction(self, state: Progress) -> float:
        """What a plateau of the validation loss leaves of the learning rate."""
        if self.params.scheduler != "plateau":
            return 1.0
        split = "val" if self.attack is None else "val/adversarial"
        rows = [row for row in state.history if row["split"] == split and row["epoch"] > self.params.head_epochs]
        return plateau_factor([row["loss"] for row in rows], self.params.plateau_patience)

    def _train_epoch(self, epoch: int, bar: Any, reduction: float = 1.0) -> dict[str, float]:
        """One pass over the training images; scores of the batches as they came."""
        self.phases.enter(epoch)
        if self.free is not None:
            self.free.forget()
        order = torch.randperm(len(self.train), generator=torch_rng(self.seed, "shuffle", epoch)).numpy()
        flips = flip_draws(len(self.train), self.seed, epoch) if self.params.augment else None
        logits = []
        with _seeded(self.device, seed_for(self.seed, "dropout", epoch)):
            batches = np.array_split(order, math.ceil(len(order) / self.params.batch_size))
            for i, rows in enumerate(batches):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.params.lr_at(epoch, i / len(batches)) * reduction
                images = self.train.tensor(rows)
                images = images if flips is None else flip(images, flips[rows])
                ids, labels = self.train.sample_ids[rows], torch.from_numpy(self.train.labels[rows])
                if self.augmentation is not None:
                    images = self.augmentation(images, ids, self.seed, epoch)
                if self.transforms is not None:
                    images = self.transforms(images, ids, self.seed, epoch)
                if self.mixing is not None:
                    images, labels = self.mixing(images, labels, self.seed, epoch, i)
                logits.append(self._step(images.to(self.device), labels.to(self.device), ids, epoch))
                bar.update(len(rows))
        found = scores(torch.cat(logits).cpu().numpy(), self.train.labels[order], self.train.info.task, self.cpu_loss)
        return self._checked(found, epoch)

    def _step(self, images: Tensor, labels: Tensor, ids: np.ndarray, epoch: int) -> Tensor:
        share = self.params.adversarial.share_of_eps(epoch)
        if self.free is not None:
            return self.free.step(self.model, self.loss, self.optimizer, images, labels, share)
        if self.attack is not None:
            seed = seed_for(self.seed, "adversarial", epoch)
            images = self.attack.perturb(self.model, images, labels, seed, ids, share)
        self.optimizer.zero_grad()
        logits = self.model(images)
        self.loss(logits, labels).backward()
        if self.params.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.params.grad_clip)
        self.optimizer.step()
        return logits.detach()

    def _validate(self) -> dict[str, float]:
        logits = predict_logits(self.model, self.val, self.params.eval_batch_size, self.device)
        return scores(logits, self.val.labels, self.val.info.task, self.cpu_loss)

    def _validate_attacked(self, attack: TrainingAttack) -> dict[str, float]:
        logits = []
        for batch in self.val.batches(self.params.eval_batch_size):
            images, labels = batch.images.to(self.device), batch.labels.to(self.device)
            seed, ids = seed_for(self.seed, "adversarial", "val"), self.val.sample_ids[batch.rows]
            attacked = attack.strong(self.model, images, labels, seed, ids)
            with borrow(self.model), torch.inference_mode():
                logits.append(self.model(attacked).float().cpu())
        return scores(torch.cat(logits).numpy(), self.val.labels, self.val.info.task, self.cpu_loss)

    def _checked(self, found: dict[str, float], epoch: int) -> dict[str, float]:
        if not math.isfinite(found["loss"]):
            raise InputError(
                f"The lr parameter of training must be small enough for a finite loss. Got {self.params.lr} instead, "
                f"which gave {found['loss']} in epoch {epoch}."
            )
        return found


def make_optimizer(model: nn.Module, params: TrainingParams) -> torch.optim.Optimizer:
    """The optimizer that the parameters name, over all weights that need gradients; Adam in torch's fused form."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if params.optimizer == "sgd":
        return torch.optim.SGD(weights, params.lr, params.momentum, weight_decay=params.weight_decay)
    kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, params.lr, eps=params.adam_eps, weight_decay=params.weight_decay, fused=True)


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Set torch's global random state, which dropout uses, and give the old one back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def predict_logits(
    model: nn.Module, images: ImageSet, batch_size: int, device: str | torch.device
) -> Float[np.ndarray, "n k"]:
    """Logits float32 (N,K) of a whole set in evaluation mode; the model moves to `device` and keeps its mode."""
    with borrow(model.to(device)), torch.inference_mode():
        parts = [model(batch.images.to(device)).float().cpu() for batch in images.batches(batch_size)]
    return torch.cat(parts).numpy()
