"""Corruptions as training augmentation [DiSalvo2024]."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, model_validator

from xai_robustness.corruptions.base import CORRUPTIONS, Images, check_images
from xai_robustness.corruptions.tables import STANDARD, constants, corruptions_of
from xai_robustness.randomness import numpy_rng, torch_rng
from xai_robustness.types import InputError, Params

IDENTITY = "identity"


class CorruptionAugmentation:
    """One corruption a sample and epoch, each and none equally likely, at a random constant.

    The constant lies uniformly between those of severities 1 and 5. The draws follow the sample's id, the epoch and
    the seed, so neither the batch nor the order matters, and a resumed training sees what an undisturbed one sees.

    Args:
        names: corruptions; None: all of the table.
        table: severity table.
        identity: whether leaving the image as it is belongs to the choices (training), or not (evaluation).
    """

    def __init__(self, names: Sequence[str] | None = None, table: str = STANDARD, identity: bool = True) -> None:
        self.names = tuple(names) if names is not None else corruptions_of(table)
        if not self.names:
            raise InputError("The names parameter of CorruptionAugmentation must be at least one. Got none instead.")
        self.choices = {name: (CORRUPTIONS.create(name, table), constants(table, name)) for name in self.names}
        self.identity = identity

    def __call__(self, images: Images, sample_ids: Sequence[int], seed: int, epoch: int = 0) -> Images:
        """Augmented images (N,C,H,W) in [0,1]; the given ones are not changed."""
        check_images(type(self).__name__, images)
        augmented = images.clone()
        for row, sample_id in enumerate(sample_ids):
            name = self.choice(int(sample_id), seed, epoch)
            if name != IDENTITY:
                corruption, five = self.choices[name]
                rng = numpy_rng(seed, "augment", epoch, int(sample_id), "constant")
                stream = torch_rng(seed, "augment", epoch, int(sample_id))
                augmented[row : row + 1] = corruption.degrade(images[row : row + 1], between(five, rng), [stream])
        return augmented

    def choice(self, sample_id: int, seed: int, epoch: int = 0) -> str:
        """Name of the corruption of a sample, or `identity`."""
        choices = (*self.names, IDENTITY) if self.identity else self.names
        return choices[int(numpy_rng(seed, "augment", epoch, sample_id, "choice").integers(len(choices)))]


def between(five: Sequence[Any], rng: Any) -> Any:
    """A constant drawn uniformly between the first and the last: each part of a pair for itself.

    Whole numbers stay whole, and odd where both ends are odd (the window of a blur). A list of zoom factors keeps the
    first one's step and ends at a drawn factor.
    """
    first, last = five[0], five[-1]
    if isinstance(first, tuple) and len(first) > 3:
        end = rng.uniform(first[-1], last[-1])
        steps = torch.arange(first[0], end + 1e-9, first[1] - first[0], dtype=torch.float64)
        return tuple(steps.tolist())
    if isinstance(first, tuple):
        return tuple(between([a, b], rng) for a, b in zip(first, last))
    drawn = rng.uniform(min(first, last), max(first, last))
    if not (isinstance(first, int) and isinstance(last, int)):
        return float(drawn)
    whole = int(drawn)
    return whole - 1 if first % 2 and last % 2 and first >= 3 and whole % 2 == 0 else whole


class CorruptionTraining(Params):
    """Training images are corrupted, each by one corruption or none, anew in every epoch [DiSalvo2024]."""

    table: str | None = Field(None, description="severity table: standard, or a data set of MedMNIST-C; null: none")
    names: list[str] = Field(["all"], min_length=1, description="corruptions; [all]: every one of the table")

    @model_validator(mode="after")
    def _known(self) -> "CorruptionTraining":
        self.augmentation()
        return self

    def augmentation(self) -> CorruptionAugmentation | None:
        """The corruptions of a training, or None for training on the images as they are.

        Raises:
            InputError: no such table, no such corruption, or one that the table does not hold.
        """
        if self.table is None:
            return None
        return CorruptionAugmentation(None if self.names == ["all"] else self.names, self.table)
