"""What a study may say about corrections: one group of parameters a method."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from xai_robustness.concepts.directions import CAV_KINDS
from xai_robustness.mitigation.penalties import AGGREGATIONS, CRITERIA, FORMS
from xai_robustness.spread import WorkersParams
from xai_robustness.types import NEUTRAL, InputError, Params, UsedBy


class MethodParams(Params):
    """Parameters of every method."""

    enabled: bool = Field(True, description="whether the study's grid contains this method")

    def grid_layers(self) -> tuple[str, ...] | None:
        """Layers of the grid: empty means all inspected layers, None that the method has no layer."""
        return None


class LayerParams(MethodParams):
    """A method that works at a layer, along a concept direction."""

    layers: tuple[str, ...] = Field((), description="layers of the grid; empty: every inspected layer")
    cav: str = Field("signal", description="kind of the concept vector")
    also: tuple[str, ...] = Field((), description="further kinds, whose directions are corrected together with it")
    features: Literal["pooled", "full"] = Field(
        "pooled", description="full: a direction of the flattened activation, the difference of means, fitted here"
    )

    @model_validator(mode="after")
    def _one_full_direction(self) -> Self:
        if self.features == "full" and self.also:
            raise InputError(
                f"The also parameter of a correction must be empty with features: full. Got {list(self.also)} instead."
            )
        return self

    @field_validator("also")
    @classmethod
    def _known_cavs(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct("also", tuple(CAV_KINDS.checked(kind) for kind in kinds))

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds of concept vectors, the main one first."""
        return (self.cav, *self.also)

    @field_validator("layers")
    @classmethod
    def _distinct_layers(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct("layers", layers)

    @field_validator("cav")
    @classmethod
    def _known_cav(cls, cav: str) -> str:
        return CAV_KINDS.checked(cav)

    def grid_layers(self) -> tuple[str, ...] | None:
        """Layers of the grid: empty means all inspected layers."""
        return self.layers


class FineTuningParams(MethodParams):
    """A method that trains further on the biased training images.

    The last epoch's weights are kept: any choice among epochs on biased validation images would favour the shortcut.
    """

    epochs: int = Field(1, ge=1, description="passes over the biased training images")
    batch_size: int = Field(64, ge=2, description="samples a step")
    lr: float = Field(1e-4, gt=0, description="learning rate")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adam", description="sgd, adam or adamw")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimiser")
    augment: bool = Field(False, description="flip images as in training; their masks move along")
    gradient_clip: float = Field(100.0, gt=0, description="largest norm of the gradient of all trained weights")


class StrengthParams(FineTuningParams):
    """A fine-tuning method with a penalty of some strength."""

    lambdas: tuple[float, ...] = Field((1.0,), min_length=1, description="strengths of the penalty; 0 is none")

    @field_validator("lambdas")
    @classmethod
    def _usable(cls, lambdas: tuple[float, ...]) -> tuple[float, ...]:
        for value in lambdas:
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"The lambdas parameter of a correction must be finite and >= 0. Got {value} instead.")
        return _distinct("lambdas", lambdas)


class VanillaParams(FineTuningParams):
    """Fine-tuning without any penalty, the control; the reference itself needs no parameters and is always there."""


class RrrParams(StrengthParams):
    """Right for the right reasons: the input gradient is to avoid the artifact's mask."""

    lambdas: tuple[float, ...] = Field((10.0, 100.0, 1000.0), min_length=1, description="strengths of the penalty")
    criterion: str = Field("max_logit", description="what the gradient explains, one of CRITERIA")
    form: str = Field("cosine", description="how gradient and mask are compared, one of FORMS: cosine, squared")

    @field_validator("form")
    @classmethod
    def _known_form(cls, form: str) -> str:
        return FORMS.checked(form)

    @field_validator("criterion")
    @classmethod
    def _known(cls, criterion: str) -> str:
        return CRITERIA.checked(criterion)


class RrClarcParams(StrengthParams, LayerParams):
    """Right-reason ClArC: the latent gradient is to be orthogonal to the concept direction."""

    lambdas: tuple[float, ...] = Field((1e3, 1e4, 1e5), min_length=1, description="strengths of the penalty")
    criterion: str = Field("all_logits_random", description="what the gradient explains, one of CRITERIA")
    aggregation: str = Field("l2_mean", description="how the gradient is compared, one of AGGREGATIONS")

    @field_validator("criterion")
    @classmethod
    def _known_criterion(cls, criterion: str) -> str:
        return CRITERIA.checked(criterion)

    @field_validator("aggregation")
    @classmethod
    def _known_aggregation(cls, aggregation: str) -> str:
        return AGGREGATIONS.checked(aggregation)


class AClarcParams(StrengthParams, LayerParams):
    """Augmentive ClArC: fine-tuning on activations to which the artifact's direction was added; off by default."""

    enabled: bool = Field(False, description="whether the study's grid contains this method")
    lambdas: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="how far activations are moved; 1: all the way"
    )
    share: float = Field(1.0, gt=0, le=1, description="share of each batch that is moved")


class CdepParams(StrengthParams):
    """Contextual decomposition explanation penalisation, with artifact masks; off by default."""

    enabled: bool = Field(False, description="whether the study's grid contains this method")
    lambdas: tuple[float, ...] = Field((1.0, 10.0), min_length=1, description="strengths of the penalty")


class DfrParams(MethodParams):
    """Deep feature reweighting: the last layer is fitted again on balanced groups; off by default."""

    enabled: bool = Field(False, description="whether the study's grid contains this method")
    lambdas: tuple[float, ...] = Field((1.0, 10.0, 100.0), min_length=1, description="weights of the squared norm")
    repeats: int = Field(10, ge=1, description="balanced subsets, whose heads are averaged")

    @field_validator("lambdas")
    @classmethod
    def _usable(cls, lambdas: tuple[float, ...]) -> tuple[float, ...]:
        for value in lambdas:
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"The lambdas parameter of dfr must be finite and > 0. Got {value} instead.")
        return _distinct("lambdas", lambdas)


class GroupDroParams(StrengthParams):
    """Group distributionally robust fine-tuning; off by default."""

    enabled: bool = Field(False, description="whether the study's grid contains this method")
    lambdas: tuple[float, ...] = Field((0.01, 0.1), min_length=1, description="step sizes of the groups' weights")


class JttParams(StrengthParams):
    """Just train twice; off by default."""

    enabled: bool = Field(False, description="whether the study's grid contains this method")
    lambdas: tuple[float, ...] = Field(
        (5.0, 20.0), min_length=1, description="how often samples of the error set count"
    )
    identification_epochs: int = Field(1, ge=1, description="epochs of the model whose errors are counted")
    identification_lr: float = Field(1e-3, gt=0, description="its learning rate")

    def identification(self) -> FineTuningParams:
        """Training of the model whose errors are counted."""
        shared = {name: getattr(self, name) for name in FineTuningParams.model_fields}
        return FineTuningParams(**shared | {"epochs": self.identification_epochs, "lr": self.identification_lr})


class PClarcParams(LayerParams):
    """Projective ClArC: activations are moved along the concept direction; nothing is trained."""


class ReactivePClarcParams(LayerParams):
    """Reactive P-ClArC: only samples that a second concept vector calls artifacts are moved."""

    condition: str = Field("svm", description="kind of the concept vector that decides, with its intercept")

    @field_validator("condition")
    @classmethod
    def _known_condition(cls, condition: str) -> str:
        return CAV_KINDS.checked(condition)


class IterativeParams(LayerParams, StrengthParams):
    """Several artifacts one after another, the vector fitted anew on each model in turn; off by default."""

    enabled: bool = Field(False, description="whether the study's grid contains this method")
    base: Literal["p_clarc", "rr_clarc", "a_clarc"] = Field("p_clarc", description="method of each round")
    lambdas: tuple[float, ...] = Field((1.0,), min_length=1, description="strengths; of p_clarc one candidate is made")
    rounds: int = Field(2, ge=1, description="how often every class with a confirmed artifact has its turn")


class MitigationParams(Params):
    """The grid of corrections and the rule that selects among them.

    Example:
        >>> MitigationParams(rr_clarc=RrClarcParams(layers=("layer2",))).all_layers()
        ('layer2',)
    """

    vanilla: VanillaParams = Field(default_factory=VanillaParams)
    rrr: RrrParams = Field(default_factory=RrrParams)
    rr_clarc: RrClarcParams = Field(default_factory=RrClarcParams)
    p_clarc: PClarcParams = Field(default_factory=PClarcParams)
    reactive_p_clarc: ReactivePClarcParams = Field(default_factory=ReactivePClarcParams)
    a_clarc: AClarcParams = Field(default_factory=AClarcParams)
    iterative: IterativeParams = Field(default_factory=IterativeParams)
    cdep: CdepParams = Field(default_factory=CdepParams)
    dfr: DfrParams = Field(default_factory=DfrParams)
    group_dro: GroupDroParams = Field(default_factory=GroupDroParams)
    jtt: JttParams = Field(default_factory=JttParams)
    masks: Literal["predicted", "truth"] = Field(
        "predicted", description="masks that methods use: predicted by localization, or the truth as a labelled control"
    )
    allowed_clean_loss: Annotated[float, UsedBy("select_correction", "plot_corrections", "state_verdict")] = Field(
        0.03, ge=0, le=1, description="balanced accuracy, in [0,1], that a selected correction may lose on clean images"
    )
    tcav_cav: Annotated[str, UsedBy("measure_tcav")] = Field(
        "signal", description="kind of the concept vector that TCAV fits in each corrected model"
    )
    reveal_again: Annotated[int, UsedBy("reveal_again")] = Field(
        0, ge=0, description="labelled training images on which reveal is run before and after the correction; 0: none"
    )
    required_recovery: Annotated[float, UsedBy("state_verdict")] = Field(
        0.8, ge=0, le=1, description="share of the gap that a proven removal wins back on test images"
    )
    cache_gigabytes: Annotated[float, NEUTRAL] = Field(
        8.0, ge=0, description="most space on disk for activations that candidates share; 0: compute them every time"
    )
    eval_batch_size: Annotated[int, NEUTRAL] = Field(128, ge=1, description="images evaluated at once")
    workers: WorkersParams = Field(default_factory=WorkersParams, description="who makes the candidates, side by side")

    @field_validator("tcav_cav")
    @classmethod
    def _known_tcav(cls, kind: str) -> str:
        return CAV_KINDS.checked(kind)

    def methods(self) -> dict[str, MethodParams]:
        """Name -> parameters of every method, in the order of the report."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in named.items() if isinstance(value, MethodParams)}

    def all_layers(self) -> tuple[str, ...]:
        """Layers that enabled methods name, sorted."""
        return tuple(sorted({la for m in self.methods().values() if m.enabled for la in m.grid_layers() or ()}))


def _distinct(name: str, values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise InputError(f"The {name} parameter of a correction must name each value once. Got {list(values)} instead.")
    return values
