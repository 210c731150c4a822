"""How a classifier is trained: the parameters, and the learning rate that they mean in each epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from xai_robustness.corruptions.augment import CorruptionTraining
from xai_robustness.models.adversarial import AdversarialParams
from xai_robustness.models.presets import over, preset_values
from xai_robustness.models.transforms import Policy
from xai_robustness.types import NEUTRAL, InputError, Params

Scheduler = Literal["none", "cosine", "multistep", "one_cycle", "plateau"]


class TrainingParams(Params):
    """How the classifier is trained; the checkpoint kept is the epoch with the best validation balanced accuracy.

    A preset fills whatever is not given explicitly.
    """

    preset: Annotated[str | None, NEUTRAL] = Field(None, description="Published recipe; what is given here wins.")
    epochs: int = Field(12, ge=1, description="Most passes over the training images.")
    batch_size: int = Field(64, ge=2, description="Images a step; the last batches are evened out, none is tiny.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of the first epoch.")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adam", description="Optimizer.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    adam_eps: float = Field(1e-8, gt=0, description="Epsilon of adam and adamw.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    grad_clip: float | None = Field(None, gt=0, description="Largest norm of the gradient of a step; null: any.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the label that goes to all classes.")
    mixup: float = Field(0.0, ge=0, description="Alpha of mixup; 0: none.")
    cutmix: float = Field(0.0, ge=0, description="Alpha of CutMix; with mixup each batch is one of the two.")
    scheduler: Scheduler = Field("cosine", description="Learning rate.")
    milestones: list[int] = Field([], description="multistep: epochs after which the rate is divided by 10.")
    min_lr: float = Field(0.0, ge=0, description="cosine: learning rate at the end.")
    plateau_patience: int = Field(5, ge=0, description="plateau: epochs without a lower loss that are borne.")
    warmup_epochs: int = Field(0, ge=0, description="Epochs in which the rate rises from warmup_lr to lr.")
    warmup_lr: float = Field(1e-6, ge=0, description="Learning rate of the first of them.")
    class_weights: bool = Field(True, description="Balance classes in the loss by their frequency in training.")
    patience: int | None = Field(None, ge=1, description="Stop after this many epochs without a better one.")
    augment: bool = Field(False, description="Flip each image horizontally and vertically, each with rate 0.25.")
    policy: Policy | None = Field(None, description="Augmentation of a published recipe.")
    random_erasing: float = Field(0.0, ge=0, le=1, description="Share of images in which a rectangle becomes noise.")
    checkpoint: str | None = Field(
        None, description="Weights that are used instead of training; imagenet: torchvision's."
    )
    start: str | None = Field(
        None, description="Weights to start from, or imagenet; the head may be for other classes."
    )
    frozen_to: str | None = Field(None, description="Layer up to which weights and batch norms stay as they are.")
    head_epochs: int = Field(0, ge=0, description="Epochs before the others that train the head alone.")
    head_lr: float = Field(1e-3, gt=0, description="Learning rate of the head epochs.")
    adversarial: AdversarialParams = Field(default_factory=AdversarialParams)
    corruptions: CorruptionTraining = Field(default_factory=CorruptionTraining)
    eval_batch_size: Annotated[int, NEUTRAL] = Field(128, ge=1, description="Images at once in validation.")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        name = given.get("preset") if isinstance(given, Mapping) else None
        return given if name is None else over(preset_values(name), given)

    @model_validator(mode="after")
    def _together(self) -> "TrainingParams":
        if self.mixes and self.adversarial.active:
            raise InputError(
                "The mixup and cutmix parameters of training must be 0 in adversarial training, whose attack needs "
                f"one label an image. Got {self.mixup} and {self.cutmix} instead."
            )
        if self.grad_clip and self.adversarial.method == "free":
            raise InputError(
                f"The grad_clip parameter of training must be null in free adversarial training. Got {self.grad_clip}."
            )
        if self.warmup_epochs and self.scheduler == "one_cycle":
            raise InputError(
                "The warmup_epochs parameter of training must be 0 with one_cycle, which begins with its own rise. "
                f"Got {self.warmup_epochs} instead."
            )
        return self

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return bool(self.mixup or self.cutmix)

    @property
    def total_epochs(self) -> int:
        """Epochs of both phases."""
        return self.head_epochs + self.epochs

    def lr_at(self, epoch: int, within: float = 0.0) -> float:
        """Learning rate of an epoch, counted from 1; `one_cycle` also follows the share `within` of it [Smith2019].

        One cycle rises from lr / 25 to lr in the first 30 % of the training and falls to nearly 0, both as a cosine.
        Epochs of the head come first, at head_lr; the schedule begins after them. The reductions of `plateau` follow
        the losses, so they are a factor of their own: `plateau_factor`.
        """
        if epoch <= self.head_epochs:
            return self.head_lr
        epoch -= self.head_epochs
        if epoch <= self.warmup_epochs:
            return self.warmup_lr + (self.lr - self.warmup_lr) * (epoch - 1) / self.warmup_epochs
        if self.scheduler == "one_cycle":
            done = (epoch - 1 + within) / self.epochs
            start, end, share = (1 / 25, 1.0, done / 0.3) if done < 0.3 else (1.0, 1 / 250_000, (done - 0.3) / 0.7)
            return self.lr * (end + (start - end) * (1 + math.cos(math.pi * share)) / 2)
        if self.scheduler == "cosine":
            share = (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2
            return self.min_lr + (self.lr - self.min_lr) * share if self.min_lr else self.lr * share
        passed = sum(epoch > milestone for milestone in self.milestones) if self.scheduler == "multistep" else 0
        return self.lr * 0.1**passed


def plateau_factor(losses: Sequence[float], patience: int) -> float:
    """0.1 to the power of how often `patience` epochs in a row brought no validation loss lower by a ten-thousandth.

    Equal to torch's ReduceLROnPlateau after these losses, from the history alone, so a resumed training knows it.

    Example:
        >>> plateau_factor([1.0, 0.9, 0.9, 0.9, 0.9], patience=1)
        0.1
    """
    best, bad, reductions = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - 1e-4):
            best, bad = loss, 0
        else:
            bad += 1
        if bad > patience:
            bad, reductions = 0, reductions + 1
    return 0.1**reductions
