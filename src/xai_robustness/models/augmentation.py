"""Training on corrupted images: what it is told, and what it needs of the corruptions, which come from outside."""

from typing import Any, Protocol

from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from xai_robustness.types import Params


class CorruptionTraining(Params):
    """Training images are corrupted, each by one corruption or none, anew in every epoch [DiSalvo2024]."""

    table: str | None = Field(None, description="severity table: standard, or a data set of MedMNIST-C; null: none")
    names: list[str] = Field(["all"], min_length=1, description="corruptions; [all]: every one of the table")

    @property
    def active(self) -> bool:
        """Whether training images are corrupted at all."""
        return self.table is not None


class Augmentation(Protocol):
    """What training needs of the corruptions; `corruptions.augment.training_corruptions` makes one."""

    def __call__(
        self, images: Float[Tensor, "b c h w"], sample_ids: Int64[Any, " b"], seed: int, epoch: int
    ) -> Float[Tensor, "b c h w"]:
        """Corrupted images in [0,1]; random draws follow the seed, the epoch and the sample ids."""
        ...
