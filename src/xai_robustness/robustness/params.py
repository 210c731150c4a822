"""What is measured under corruptions, masking and by layer."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from xai_robustness.attacks.maps import checked_map
from xai_robustness.attacks.params import AttackParams
from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.corruptions import CORRUPTIONS
from xai_robustness.corruptions.tables import STANDARD, constants, corruptions_of
from xai_robustness.metrics import agreement_pairs
from xai_robustness.metrics.agreement import AGREEMENTS
from xai_robustness.metrics.agreement_maps import MapParams
from xai_robustness.metrics.ensembles import RULES
from xai_robustness.metrics.patches import FILLS, PATCH_SIDES, Fill
from xai_robustness.models.adversarial import check_eps
from xai_robustness.types import NEUTRAL, InputError, Params, Split, UsedBy

__all__ = ["CorruptedSetParams", "FaithfulnessParams", "LayerwiseParams", "RobustnessParams", "agreement_pairs"]

SEVERITIES = (1, 2, 3, 4, 5)


class LayerwiseParams(Params):
    """The layer-wise study: Grad-CAM++ maps of eight layers under perturbation."""

    enabled: bool = Field(False, description="run it")
    layers: list[str] = Field([], description="module paths; empty: the last convolution of a ResNet's last two blocks")
    n: int = Field(100, ge=10, description="test images, drawn by the seed")


class FaithfulnessParams(Params):
    """The masking game and the ensembles of explainers."""

    enabled: bool = Field(False, description="run it")
    patches: list[int] = Field(list(PATCH_SIDES), min_length=1, description="patch sides at 224 pixels")
    fills: list[Fill] = Field(list(FILLS), min_length=1, description="what replaces a patch")
    rules: list[str] = Field(list(RULES), description="voting rules")
    n: int = Field(100, ge=2, description="test images, drawn by the seed; as many of validation choose the members")
    members: int = Field(3, ge=1, description="members of static and dynamic ensembles")
    decorrelated: bool = Field(False, description="also ensembles whose members explain models of `parts`, one each")

    @field_validator("rules")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        return [RULES.checked(name) for name in names]


class CorruptedSetParams(Params):
    """Corrupted versions of the clean images as a data set."""

    splits: list[Split] = Field([], description="splits that are written; empty: none")
    export: bool = Field(False, description="also write the test set as MedMNIST-C npz files")


class RobustnessParams(Params):
    """What is measured under corruptions."""

    table: str = Field(STANDARD, description="severity table: standard, or a data set of MedMNIST-C")
    corruptions: list[str] = Field(
        ["gaussian_noise", "motion_blur", "contrast", "brightness", "jpeg_compression"],
        description="names; [all]: every one of the table; none: nothing is corrupted (signals)",
    )
    methods: list[str] = Field(["saliency", "integrated_gradients", "grad_cam"], description="attribution methods")
    agreements: list[str] = Field(["spearman", "ssim", "topk_intersection"], description="agreement metrics")
    maps: MapParams = Field(default_factory=MapParams)
    ig_steps: int = Field(50, ge=2, description="steps of Integrated Gradients")
    n_predicted: int | None = Field(None, ge=2, description="test images predicted, drawn by the seed; null: all")
    n_explained: int = Field(100, ge=2, description="test images whose explanations are compared, drawn by the seed")
    rows: Literal["best", "each"] = Field(
        "best", description="models beside the uncorrected: the best, or each method's"
    )
    batch_size: Annotated[int, NEUTRAL] = Field(128, ge=1, description="images at once")
    attacks: Annotated[list[AttackParams], UsedBy("measure_attacks")] = Field(
        [], description="attacks on predictions that the one table reports"
    )
    explanation_eps: Annotated[float | None, UsedBy("measure_attacks")] = Field(
        None, description="L-infinity radius in [0,1] of the attacks on explanations that the table reports; null: none"
    )
    explanation_methods: Annotated[list[str], UsedBy("measure_attacks")] = Field(
        ["saliency"], description="methods that are attacked; differentiable ones"
    )
    explanation_steps: Annotated[int, UsedBy("measure_attacks")] = Field(
        100, ge=1, description="steps of an attack on explanations"
    )
    sharpness: Annotated[bool, UsedBy("measure_attacks")] = Field(
        False, description="report the sharpness of saliency in the one table"
    )
    layerwise: Annotated[LayerwiseParams, UsedBy("study_layers")] = Field(default_factory=LayerwiseParams)
    faithfulness: Annotated[FaithfulnessParams, UsedBy("measure_faithfulness")] = Field(
        default_factory=FaithfulnessParams
    )
    corrupted_sets: CorruptedSetParams = Field(default_factory=CorruptedSetParams)

    @field_validator("explanation_eps")
    @classmethod
    def _radius(cls, eps: float | None) -> float | None:
        if eps is None:
            return None
        if eps == 0:
            raise InputError("The explanation_eps parameter must be above 0. Got 0 instead; null attacks nothing.")
        return check_eps(eps, "linf", "the attack on explanations")

    @field_validator("explanation_methods")
    @classmethod
    def _differentiable(cls, names: list[str]) -> list[str]:
        return [checked_map(name) for name in names]

    @field_validator("methods", "agreements", "explanation_methods")
    @classmethod
    def _some(cls, names: list[str]) -> list[str]:
        if not names:
            raise InputError("A selection of robustness_eval must be at least one name. Got none instead; add one.")
        return names

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: list[str]) -> list[str]:
        return [ATTRIBUTORS.checked(name) for name in names]

    @field_validator("agreements")
    @classmethod
    def _known_agreements(cls, names: list[str]) -> list[str]:
        return [AGREEMENTS.checked(name) for name in names]

    @model_validator(mode="after")
    def _in_the_table(self) -> "RobustnessParams":
        for name in self.chosen:
            constants(self.table, CORRUPTIONS.checked(name))
        return self

    @property
    def chosen(self) -> list[str]:
        """The corruptions, `all` resolved."""
        return list(corruptions_of(self.table)) if self.corruptions == ["all"] else self.corruptions
