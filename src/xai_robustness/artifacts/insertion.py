"""Which samples get the artifact, and its insertion: decided sample by sample, so order and batches never matter."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from pydantic import Field, field_validator, model_validator

from xai_robustness.artifacts.base import ARTIFACTS, Border
from xai_robustness.artifacts.cut_out import CUT_OUTS
from xai_robustness.artifacts.ecg import SIGNAL_ARTIFACTS
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError, Params

REAL = "real"


class ArtifactParams(Params):
    """Which artifact, in which classes, and how often."""

    kind: str = Field(default="ruler", description="name of a registered artifact, or real: one the data already have")
    name: str | None = Field(default=None, description="real: which of the data set's artifact labels")
    cut_out: str = Field(default="colour", description="real: how it is found, for the attacked versions")
    attacked_classes: list[int] = Field(default=[0], description="classes whose samples get the artifact")
    rate: float | list[float] = Field(
        default=0.5,
        description="share of the attacked classes' samples that get it, or one share an attacked class, in [0,1]",
    )
    flip_rate: float = Field(
        default=0.0, ge=0, le=1, description="share of other samples that get the artifact and the first attacked label"
    )
    size: float = Field(default=1.0, ge=0.25, le=4, description="extent relative to the artifact's default")
    strength: float | None = Field(default=None, ge=0, le=1, description="opacity; null: the artifact's default")
    border: Border = Field(default="any", description="where an artifact that lies along a border lies in each image")

    leads: list[Annotated[int, Field(ge=0)]] = Field(default=[1], description="ECG: leads it changes; empty: all")
    samples: int = Field(default=100, ge=1, description="ECG: length of a defective start")
    factor: float = Field(default=3.0, gt=0, description="ECG: size of an amplified beat")

    @field_validator("kind")
    @classmethod
    def _registered(cls, kind: str) -> str:
        return kind if kind == REAL or kind in SIGNAL_ARTIFACTS else ARTIFACTS.checked(kind)

    @field_validator("cut_out")
    @classmethod
    def _known_cut_out(cls, cut_out: str) -> str:
        return CUT_OUTS.checked(cut_out)

    @field_validator("rate")
    @classmethod
    def _shares(cls, rate: float | list[float]) -> float | list[float]:
        for value in rate if isinstance(rate, list) else [rate]:
            if not 0 <= value <= 1:
                raise InputError(f"The rate parameter of ArtifactParams must be in [0, 1]. Got {value} instead.")
        return rate

    @model_validator(mode="after")
    def _fit_together(self) -> "ArtifactParams":
        if self.kind in ARTIFACTS:
            ARTIFACTS[self.kind](border=self.border)
        elif self.is_real and not self.name:
            raise InputError("The name parameter of ArtifactParams must say which artifact when its kind is real.")
        classes = self.attacked_classes
        if not classes or min(classes) < 0 or len(set(classes)) < len(classes):
            raise InputError(
                f"The attacked_classes parameter of ArtifactParams must be different class numbers. "
                f"Got {classes} instead."
            )
        if isinstance(self.rate, list) and len(self.rate) != len(classes):
            raise InputError(
                f"The rate parameter of ArtifactParams must be one number or one for each of the {len(classes)} "
                f"attacked classes. Got {self.rate} instead."
            )
        return self

    @property
    def is_real(self) -> bool:
        """Whether the artifact is one that the data already have."""
        return self.kind == REAL

    @property
    def is_signal(self) -> bool:
        """Whether the artifact is one of signals."""
        return self.kind in SIGNAL_ARTIFACTS

    @property
    def rates(self) -> dict[int, float]:
        """Attacked class -> share of its samples that get the artifact."""
        rates = self.rate if isinstance(self.rate, list) else [self.rate] * len(self.attacked_classes)
        return dict(zip(self.attacked_classes, rates))


class AttackPlan(NamedTuple):
    """Which samples carry the artifact in the biased version, and the labels there.

    Attributes:
        has_artifact: bool (N,).
        labels: int64, the shape of the given labels; they differ from those only where a label was flipped.
    """

    has_artifact: Bool[np.ndarray, " n"]
    labels: np.ndarray


def plan(
    labels: np.ndarray,
    sample_ids: Int64[np.ndarray, " n"],
    params: ArtifactParams,
    n_classes: int,
    seed: int,
    flips: bool = True,
) -> AttackPlan:
    """Choose the samples that get the artifact.

    Each sample has one random number of its own, compared with the largest rate of its attacked classes; a larger rate
    therefore keeps the samples of a smaller one.

    Args:
        labels: int64 (N,), or (N,L) in {0,1} for multi-label tasks, where a sample is attacked in the labels it has.
        sample_ids: int64 (N,).
        params: which classes, and how often.
        n_classes: number of classes or labels.
        seed: seed of the run.
        flips: whether `flip_rate` applies; False for splits other than train.

    Raises:
        InputError: an attacked class that the data set does not have.
    """
    _check_classes(params, [str(i) for i in range(n_classes)])
    member = labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(n_classes)
    rates = np.zeros(n_classes)
    rates[list(params.rates)] = list(params.rates.values())
    target = params.attacked_classes[0]
    draws = np.array([numpy_rng(seed, "artifact", "choice", int(i)).random(2) for i in sample_ids]).reshape(-1, 2)
    attacked = draws[:, 0] < (member * rates).max(axis=1)
    attackable = member[:, params.attacked_classes].any(axis=1)
    flipped = ~attackable & (draws[:, 1] < params.flip_rate) & flips
    return AttackPlan(attacked | flipped, _flip(labels, flipped, target))


def _flip(labels: np.ndarray, flipped: np.ndarray, target: int) -> np.ndarray:
    labels = labels.copy()
    if labels.ndim == 2:
        labels[flipped, target] = 1
    else:
        labels[flipped] = target
    return labels


def insert_artifact(
    images: Shaped[np.ndarray, "b h w c"],
    sample_ids: Int64[np.ndarray, " b"],
    where: Bool[np.ndarray, " b"],
    params: ArtifactParams,
    seed: int,
    peaks: Int64[np.ndarray, "b p"] | None = None,
) -> tuple[Shaped[np.ndarray, "b h w c"], Bool[np.ndarray, "b h w"]]:
    """Insert the artifact into the images that `where` selects.

    Placement, text and colour follow the seed and the sample id alone: a sample looks the same in the biased and in the
    attacked version.

    Args:
        images: uint8 (B,H,W,C), or float32 (B,1,T,C) for signals.
        sample_ids: int64 (B,).
        where: bool (B,).
        params: the artifact.
        seed: seed of the run.
        peaks: R peaks of signals, int64 (B,P), -1 behind the last.

    Returns:
        Images, a copy, and masks: the region that the artifact may have changed, empty where it was not inserted.

    Raises:
        InputError: an artifact of signals for images, or the other way round.
    """
    if params.is_signal != (images.dtype.kind == "f"):
        raise InputError(
            f"The artifact '{params.kind}' must be one of {'signals' if not params.is_signal else 'images'} for these "
            f"data. Choose from: {', '.join((ARTIFACTS if params.is_signal else SIGNAL_ARTIFACTS).names())}."
        )
    images, masks = images.copy(), np.zeros(images.shape[:3], bool)
    for row in np.flatnonzero(where):
        rng = numpy_rng(seed, "artifact", "insert", int(sample_ids[row]))
        if params.is_signal:
            found = np.zeros(0, np.int64) if peaks is None else peaks[row][peaks[row] >= 0]
            beat = SIGNAL_ARTIFACTS[params.kind](params.leads, params.samples, params.factor)
            images[row, 0], masks[row, 0] = beat(images[row, 0], found, rng)
        else:
            artifact = ARTIFACTS[params.kind](strength=params.strength, size=params.size, border=params.border)
            images[row], masks[row] = artifact(images[row], rng)
    return images, masks


def check_plan(
    labels: np.ndarray,
    sample_ids: Int64[np.ndarray, " n"],
    params: ArtifactParams,
    class_names: Sequence[str],
    seed: int,
) -> None:
    """Check that the training split can be attacked as `params` ask; a rate of 0 is a legitimate control.

    Args:
        labels: int64 (N,) or (N,L) of the training split.
        sample_ids: int64 (N,) of the training split.
        params: which classes, and how often.
        class_names: names of all classes or labels.
        seed: seed of the run.

    Raises:
        InputError: an attacked class that the data set does not have, or no training sample that gets the artifact.
    """
    _check_classes(params, class_names)
    if max(*params.rates.values(), params.flip_rate) == 0:
        return
    if not plan(labels, sample_ids, params, len(class_names), seed).has_artifact.any():
        names = ", ".join(class_names[c] for c in params.attacked_classes)
        raise InputError(
            f"The artifact '{params.kind}' must reach at least one training sample of {names}. Got none of "
            f"{len(labels)} samples at rate {params.rate} instead: raise it, or set it to 0 for a control."
        )


def _check_classes(params: ArtifactParams, class_names: Sequence[str]) -> None:
    outside = [c for c in params.attacked_classes if c >= len(class_names)]
    if outside:
        choices = ", ".join(f"{i} ({name})" if name != str(i) else name for i, name in enumerate(class_names))
        raise InputError(
            f"The attacked_classes parameter of ArtifactParams must be classes of the data set: {choices}. "
            f"Got {outside} instead."
        )
