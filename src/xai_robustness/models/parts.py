"""Models trained on disjoint parts of the training images, so that their errors are less alike [EnsembleStrategies]."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from xai_robustness.datasets.base import ImageSet
from xai_robustness.models.adversarial import TrainingAttack
from xai_robustness.models.training import TrainingJob, TrainingParams
from xai_robustness.models.zoo import ModelParams
from xai_robustness.randomness import numpy_rng, seed_for
from xai_robustness.types import InputError, Params


class PartsParams(Params):
    """Models beside the classifier, each trained on its own part of the training images."""

    n: int = Field(0, ge=0, description="Number of models and parts; 0: none.")


@dataclass(frozen=True)
class PartsJob:
    """Trains one model a part, in the folders `part_0`, `part_1`, …; an interrupted write goes on.

    Attributes:
        model: architecture.
        train: biased training images, of which each model sees its part.
        val: biased validation images, the same for all.
        training: how each is trained; a given checkpoint is not used.
        parts: how many.
        seed: seed of the run; each model has its own stream.
        device: where to train.
        attack: the attack of adversarial training, where the recipe has one.
    """

    model: ModelParams
    train: ImageSet
    val: ImageSet
    training: TrainingParams
    parts: PartsParams
    seed: int
    device: str
    attack: TrainingAttack | None = None

    def write(self, folder: Path) -> None:
        """Train what `folder` lacks."""
        folder.mkdir(parents=True, exist_ok=True)
        recipe = self.training.model_copy(update={"checkpoint": None})
        for i, rows in enumerate(disjoint_parts(self.train.labels, self.parts.n, self.seed)):
            own = seed_for(self.seed, "part", i) % 2**31
            job = TrainingJob(self.model, self.train.subset(rows), self.val, recipe, own, self.device, self.attack)
            job.write(folder / f"part_{i}")


def disjoint_parts(labels: np.ndarray, n: int, seed: int) -> list[np.ndarray]:
    """Rows of each part: disjoint, together everything, each class spread as evenly as possible (multi-label: any).

    Raises:
        InputError: a class with fewer samples than parts.
    """
    if n == 0:
        return []
    classes = labels if labels.ndim == 1 else np.zeros(len(labels), dtype=int)
    values, counts = np.unique(classes, return_counts=True)
    if counts.min() < n:
        raise InputError(
            f"The parts.n parameter must be at most {counts.min()}, the number of training samples of class "
            f"{values[counts.argmin()]}. Got {n} instead."
        )
    shuffled = numpy_rng(seed, "parts").permutation(len(labels))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    return [np.sort(by_class[i::n]) for i in range(n)]
