"""What an attribution set is made of: methods with options, noise conditions, image sets."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.base import Attributor
from xai_robustness.corruptions.conditions import NOISES
from xai_robustness.datasets.base import ImageSet
from xai_robustness.randomness import numpy_rng
from xai_robustness.spread import WorkersParams
from xai_robustness.types import NEUTRAL, InputError, Params

Export = Literal["zarr_zip", "pt"]


class MethodSpec(Params):
    """One method with its options; a bare name means its defaults."""

    method: str = Field(description="one of ATTRIBUTORS")
    options: dict[str, bool | int | float | str | list[int] | None] = Field({}, description="as the method takes them")

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        return ATTRIBUTORS.checked(name)

    @property
    def key(self) -> str:
        """Name of the arrays: the method and its options.

        Example:
            >>> MethodSpec(method="integrated_gradients", options={"n_steps": 50}).key
            'integrated_gradients_n_steps_50'
        """
        options = [f"{name}_{value}" for name, value in sorted(self.options.items())]
        return "_".join([self.method, *options]).replace(" ", "").replace("/", "-")

    def create(self, model: nn.Module, mean_image: Tensor | None, seed: int) -> Attributor:
        """The attributor; the mean image and the seed go to methods that take them.

        Raises:
            InputError: unknown options or values; the sentence lists the choices.
        """
        own = {"mean_image": mean_image, "seed": seed}
        given = {name: value for name, value in own.items() if name in ATTRIBUTORS.options(self.method)}
        attributor: Attributor = ATTRIBUTORS.create(self.method, model, **{**given, **self.options})
        return attributor


class AttributionSetParams(Params):
    """Which attributions are kept; without methods nothing is made."""

    methods: list[MethodSpec] = Field([], description="Methods on the study's classifier.")
    decorrelated: list[MethodSpec] = Field(
        [], description="Methods that explain one model each, trained on disjoint parts of the training images."
    )
    noises: list[str] = Field(["clean"], description="Noise conditions: clean, gaussian, salt_pepper, speckle.")
    sets: list[str] = Field(["test/clean"], description="<split>/<condition> of the images.")
    n_samples: int | None = Field(None, ge=1, description="Images of each set, drawn by the seed; null: all.")
    target: Literal["predicted", "label"] = Field("predicted", description="Explained class, of the noisy image.")
    dtype: Literal["float16", "float32"] = Field("float32", description="Attributions; float16 are scaled, see docs.")
    autocast: Literal["none", "bfloat16", "float16"] = Field(
        "none", description="Precision of the models' passes, but for methods that need the full one; see docs."
    )
    export: list[Export] = Field([], description="Files beside the store: zarr_zip, pt.")
    chunk: Annotated[int, NEUTRAL] = Field(64, ge=1, description="Samples of a chunk, the unit of resuming.")
    workers: Annotated[WorkersParams, NEUTRAL] = Field(WorkersParams(), description="Who computes.")

    @field_validator("methods", "decorrelated", mode="before")
    @classmethod
    def _bare_names(cls, given: Any) -> Any:
        return [{"method": item} if isinstance(item, str) else item for item in given]

    @field_validator("methods", "decorrelated")
    @classmethod
    def _different(cls, specs: list[MethodSpec]) -> list[MethodSpec]:
        keys = [spec.key for spec in specs]
        for key in keys:
            if keys.count(key) > 1:
                raise InputError(f"The methods must be different. Got '{key}' twice; remove one.")
        return specs

    @field_validator("noises")
    @classmethod
    def _known_noises(cls, names: list[str]) -> list[str]:
        return [NOISES.checked(name) for name in names]

    def check(self, model: nn.Module, image_shape: Sequence[int]) -> None:
        """Make every method once, for a model of the study's kind; raises InputError for options that do not fit."""
        for spec in [*self.methods, *self.decorrelated]:
            spec.create(model, torch.zeros(*image_shape), 0)


def chosen(images: Mapping[str, ImageSet], params: AttributionSetParams, seed: int) -> dict[str, ImageSet]:
    """The image sets that the parameters name, cut to `n_samples` of each.

    Raises:
        InputError: a set that does not exist; lists those that do.
    """
    found = {}
    for key in params.sets:
        if key not in images:
            raise InputError(
                f"Unknown image set '{key}' in attribution_sets.sets. Choose from: {', '.join(sorted(images))}."
            )
        part, n = images[key], params.n_samples
        if part.labels.ndim == 2 and params.target == "label":
            raise InputError(
                "The target parameter of attribution_sets must be 'predicted' for multi-label tasks. "
                "Got 'label' instead."
            )
        if n is not None and n < len(part):
            part = part.subset(np.sort(numpy_rng(seed, "attribution_set", key).permutation(len(part))[:n]))
        found[key] = part
    return found
