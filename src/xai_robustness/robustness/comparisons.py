"""Models that the one table sets beside the uncorrected and the corrected: trained otherwise on the same images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError, model_validator
from torch import nn

from xai_robustness.attacks.training import training_attack
from xai_robustness.datasets.base import ImageSet
from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.presets import over, preset_values
from xai_robustness.models.pretrained import IMAGENET
from xai_robustness.models.training import TrainingJob, TrainingParams
from xai_robustness.models.zoo import ModelParams
from xai_robustness.types import InputError, Params

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
RESERVED = ("vanilla", "corrected", IMAGENET)
CLASSIFIER = "classifier"
"""`start: classifier` begins with the uncorrected model; the name of an earlier compared model begins with that."""


class ComparisonParams(Params):
    """Rows of the one table beside the uncorrected and corrected models; none by default."""

    models: dict[Name, dict[str, Any]] = Field(
        {},
        description="name -> what differs from `training`, as in adversarial: {adversarial: {method: pgd}}; "
        "start: classifier, or an earlier name, begins with that model",
    )

    @model_validator(mode="after")
    def _possible(self) -> "ComparisonParams":
        for name in self.models:
            if name in RESERVED:
                raise InputError(
                    f"The name of a compared model must be none of {', '.join(RESERVED)}. Got '{name}' instead."
                )
            self.recipe(name, TrainingParams())
            start, earlier = self.models[name].get("start"), list(self.models)[: list(self.models).index(name)]
            if start in self.models and start not in earlier:
                raise InputError(
                    f"The comparisons.models.{name}.start parameter must be {CLASSIFIER}, a file, or a model that "
                    f"stands before {name}. Got '{start}' instead; move it up."
                )
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Weights that the recipes name."""
        named = [changes.get(key) for changes in self.models.values() for key in ("checkpoint", "start")]
        return tuple(name for name in named if name and name != CLASSIFIER and name not in self.models)

    def recipe(self, name: str, training: TrainingParams) -> TrainingParams:
        """How a model is trained: the study's training with its differences.

        Raises:
            InputError: a difference that no training knows, or a value that it refuses.
        """
        try:
            changes = self.models[name]
            given = preset_values(changes["preset"]) if changes.get("preset") else {}
            return TrainingParams.model_validate(over(over(training.model_dump(), given), changes))
        except ValidationError as error:
            first = error.errors()[0]
            place, message = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
            raise InputError(
                f"The comparisons.models.{name} parameter must be differences of `training` that it knows. "
                f"Got {place}: {first['input']!r} instead ({message})."
            ) from None


@dataclass(frozen=True)
class ComparisonJob:
    """Trains each compared model into the folder of its name; an interrupted write goes on.

    Attributes:
        comparisons: which models.
        model: architecture, the classifier's.
        training: the study's training, which the models differ from.
        train: biased training images.
        val: biased validation images.
        start: weights of the uncorrected classifier, for models that begin with them.
        seed: seed of the run.
        device: where to train.
    """

    comparisons: ComparisonParams
    model: ModelParams
    training: TrainingParams
    train: ImageSet
    val: ImageSet
    start: Path
    seed: int
    device: str

    def write(self, folder: Path) -> None:
        """Train what `folder` lacks."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.comparisons.models:
            recipe = self.comparisons.recipe(name, self.training)
            if "checkpoint" not in self.comparisons.models[name]:
                recipe = recipe.model_copy(update={"checkpoint": None})
            places = {CLASSIFIER: self.start, **{k: folder / k / "model.safetensors" for k in self.comparisons.models}}
            if recipe.start in places:
                recipe = recipe.model_copy(update={"start": str(places[recipe.start])})
            attack = training_attack(recipe.adversarial)
            job = TrainingJob(self.model, self.train, self.val, recipe, self.seed, self.device, attack)
            job.write(folder / name)


def load_compared(folder: Path) -> dict[str, nn.Sequential]:
    """Name -> model of each compared model, in the order of their names."""
    return {place.name: load_model(place) for place in sorted(folder.iterdir()) if place.is_dir()}
