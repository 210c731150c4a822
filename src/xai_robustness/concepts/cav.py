"""Concept activation vectors: directions of a layer that separate samples with an artifact from samples without."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, field_validator
from safetensors import safe_open
from safetensors.numpy import save_file

from xai_robustness.concepts.directions import CAV_KINDS, PATTERNS
from xai_robustness.concepts.labelled import Labelled, Scaling, Table
from xai_robustness.concepts.moments import Sides
from xai_robustness.types import InputError, Params, UsedBy

Feature = Literal["activations", "relevances"]
BASELINES = ("neuron", "nmf", "random")
LENGTH_TOLERANCE = 1e-3


class CavParams(Params):
    """Which CAVs to fit.

    Example:
        >>> CavParams().kinds
        ('signal', 'mean', 'ridge', 'svm')
    """

    kinds: tuple[str, ...] = Field(("signal", "mean", "ridge", "svm"), min_length=1, description="kinds of CAV")
    layers: tuple[str, ...] = Field((), description="layers to fit in; empty: every layer of the latents")
    pool: str = Field("max", pattern="^(max|mean)$", description="spatial pooling of the activations")
    scaling: Scaling = Field("global", description="scaling of the features before the fit")
    features: tuple[Feature, ...] = Field(("activations",), min_length=1, description="activations, relevances")
    baselines: Annotated[tuple[str, ...], UsedBy("score_samples")] = Field(
        ("neuron",), description="neuron, nmf, random; the best of each by validation"
    )
    given: Annotated[str | None, UsedBy("fit_cavs")] = Field(
        None, description="file of CAVs of the same model that are used instead of fitting"
    )

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(CAV_KINDS.checked(kind) for kind in kinds)

    @field_validator("baselines")
    @classmethod
    def _baselines(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(names) - set(BASELINES):
            raise ValueError(f"baselines must be of {', '.join(BASELINES)}. Got {sorted(unknown)[0]!r} instead.")
        return names


@dataclass(frozen=True, eq=False)
class Cav:
    """A unit direction in the pooled activations of a layer; `vector @ x + intercept > 0` says "artifact".

    Attributes:
        vector: float32 (K,), length 1, points from clean to artifact.
        intercept: offset of the score, in units of the activation.
        kind: how it was fitted, a name of `CAV_KINDS`.
        layer: module path of the layer.
        pool: spatial pooling of the features, "max" or "mean".
        mean_clean: mean of `vector @ x` over the clean samples; P-ClArC moves activations there.
        mean_artifact: mean of `vector @ x` over the artifact samples.
        n_clean: clean samples it was fitted on.
        n_artifact: artifact samples it was fitted on.
        feature: what it is a direction of: pooled activations, or the layer's relevances as shares (summed over
            positions, divided by their absolute sum).
        scaling: of the features before the fit (see `fit_cav`); "none" for patterns, empty where it is not known.
        strength: of the regularisation that was chosen, in units of the scaled features: the penalty of ridge and
            lasso, 1 / C of logistic and svm, the shrinkage of lda; None for patterns, and where it is not known.
    """

    vector: Float[np.ndarray, " k"]
    intercept: float
    kind: str
    layer: str
    pool: str
    mean_clean: float
    mean_artifact: float
    n_clean: int
    n_artifact: int
    feature: Feature = "activations"
    scaling: Scaling | Literal[""] = ""
    strength: float | None = None

    @property
    def name(self) -> str:
        """`<layer>/<kind>`, the column of its scores; `<layer>/<kind>/relevances` for a direction of relevances."""
        return f"{self.layer}/{self.kind}" + ("" if self.feature == "activations" else f"/{self.feature}")

    def scores(self, features: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """Bias scores of pooled activations, float64 (N,); positive on the artifact's side."""
        return np.asarray(features, np.float64) @ self.vector.astype(np.float64) + self.intercept


@dataclass(frozen=True, eq=False)
class Cavs:
    """The CAVs of a study, one a layer, kind and feature; empty where no artifact was confirmed.

    Attributes:
        items: the CAVs.
        model: fingerprint of the classifier in whose layers they live; empty where it is not known.
        study: name of the study that they were fitted in; empty where it is not known.
        seed: of the run that they were fitted in; None where it is not known.
    """

    items: tuple[Cav, ...] = ()
    model: str = ""
    study: str = ""
    seed: int | None = None

    def __iter__(self) -> Iterator[Cav]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def localizing(self) -> "Cavs":
        """Those with a positive entry, which a heatmap needs; all, if none has one."""
        positive = tuple(cav for cav in self.items if (cav.vector > 0).any())
        return replace(self, items=positive or self.items)

    def find(self, layer: str, kind: str, feature: Feature = "activations") -> Cav:
        """The CAV of a layer and kind; raises InputError that lists those there are."""
        for cav in self.items:
            if (cav.layer, cav.kind, cav.feature) == (layer, kind, feature):
                return cav
        names = ", ".join(cav.name for cav in self.items) or "none, since no artifact was confirmed"
        raise InputError(f"No CAV of kind '{kind}' in layer '{layer}'. There are: {names}.")


def fit_cav(
    features: Table,
    artifact: Bool[np.ndarray, " n"],
    kind: str,
    layer: str,
    pool: str = "max",
    scaling: Scaling = "global",
    feature: Feature = "activations",
) -> Cav:
    """Fit one CAV; both classes count the same, whatever their sizes.

    By default features are centred and divided by one number, their root mean square, before the fit, so that a
    strength of regularisation means the same in every layer; the direction is not touched by that. Other scalings give
    each feature a factor of its own, and the filter is divided by it afterwards, so that its score stays the same.
    Patterns have no strength and know no scaling.

    Signal, mean, ridge and lda read the features block by block, so that memory does not grow with the number of
    samples, but for ten scores a sample; the other kinds hold all of them in float64, and so do ridge and lda where
    there are fewer samples than features.

    Args:
        features: pooled activations, or relevances as shares (N,K), in memory or in a store.
        artifact: whether a sample carries the artifact (N,).
        kind: a name of `CAV_KINDS`: signal, mean, median [Pahde2022], ridge, lasso, logistic, svm [Kim2018] or lda.
        layer: module path of the layer, kept with the CAV.
        pool: how the features were pooled, kept with the CAV.
        scaling: global; centered (the mean is subtracted); max (each feature divided by its largest absolute value);
            second_moment (divided by its root mean square); none.
        feature: what the features are, kept with the CAV.

    Raises:
        InputError: fewer than two samples with or without the artifact, features that are not finite or do not vary.
    """
    return fit_kinds(features, artifact, (kind,), layer, pool, scaling, feature)[0]


def fit_kinds(
    features: Table,
    artifact: Bool[np.ndarray, " n"],
    kinds: Sequence[str],
    layer: str,
    pool: str = "max",
    scaling: Scaling = "global",
    feature: Feature = "activations",
) -> list[Cav]:
    """`fit_cav` for several kinds, which share what one pass over the features gives."""
    n_artifact, n_clean = int(artifact.sum()), int((~artifact).sum())
    if min(n_artifact, n_clean) < 2:
        raise InputError(
            f"The artifact parameter of fit_cav must be at least 2 samples with and 2 without the artifact. "
            f"Got {n_artifact} and {n_clean} instead. Review more samples."
        )
    plain = Labelled(features, artifact, layer)
    scaled = plain if set(kinds) <= set(PATTERNS) else plain.scaled(scaling)
    found = []
    for kind in kinds:
        pattern = kind in PATTERNS
        cav = _fitted(plain if pattern else scaled, kind, plain.spread)
        found.append(replace(cav, pool=pool, feature=feature, scaling="none" if pattern else scaling))
    return found


def _fitted(samples: Labelled, kind: str, stored: Sides) -> Cav:
    """One CAV for features as they are stored, whose means are `stored`, from samples that may be scaled."""
    direction, offset, strength = CAV_KINDS[kind](samples)
    direction = direction / samples.scale
    offset -= float(np.sum(direction * samples.centre))
    length = float(np.linalg.norm(direction))
    if not (length > 0 and np.isfinite(length)):
        raise InputError(
            f"The features of layer '{samples.layer}' must differ between samples with and without the artifact."
        )
    vector = direction / length
    return Cav(
        vector=vector.astype(np.float32),
        intercept=float(offset / length),
        kind=kind,
        layer=samples.layer,
        pool="",
        mean_clean=float(vector @ stored.clean.mean),
        mean_artifact=float(vector @ stored.artifact.mean),
        n_clean=stored.clean.size,
        n_artifact=stored.artifact.size,
        strength=strength,
    )


def given_cavs(path: Path, model: str, sizes: Mapping[str, int]) -> Cavs:
    """CAVs of a file, instead of fitting: exported by an earlier run for the same classifier.

    Args:
        path: a file of `save_cavs`.
        model: fingerprint of the classifier that they will be used with.
        sizes: layer -> number of its channels.

    Raises:
        InputError: no such file, not a file of CAVs, of another classifier, of layers that are not there, two of the
            same name, or one of an unknown kind, feature or pooling, that is not finite, or not of length 1.
    """
    if not path.is_file():
        raise InputError(f"No CAVs at {path}. Correct the parameter sample_retrieval.cavs.given, or set it to null.")
    try:
        cavs = load_cavs(path)
    except Exception as error:
        raise InputError(f"{path.name} must be a file of CAVs as this project exports them. {error}") from None
    if cavs.model != model:
        raise InputError(
            f"The CAVs in {path.name} must be of the classifier in use, whose fingerprint is {model}. They are of "
            f"{cavs.model or 'an unknown one'}. Export them again from a run with this classifier."
        )
    names = [cav.name for cav in cavs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"The CAVs in {path.name} must differ in layer, kind or feature. Got {twice[0]} twice.")
    for cav in cavs:
        _check_given(cav, path.name)
        if sizes.get(cav.layer) != len(cav.vector):
            raise InputError(
                f"The CAV {cav.name} in {path.name} must have a layer of the latents and its number of channels. Got "
                f"{len(cav.vector)} channels; the layers are {', '.join(f'{k} ({v})' for k, v in sizes.items())}."
            )
    return cavs


def _check_given(cav: Cav, file: str) -> None:
    CAV_KINDS.checked(cav.kind)
    if cav.feature not in get_args(Feature) or cav.pool not in ("max", "mean"):
        raise InputError(
            f"The CAV {cav.name} in {file} must be of {' or '.join(get_args(Feature))}, with the pooling max or mean. "
            f"Got '{cav.feature}' and '{cav.pool}'."
        )
    if not np.isfinite([*cav.vector, cav.intercept, cav.mean_clean, cav.mean_artifact]).all():
        raise InputError(f"The CAV {cav.name} in {file} must have finite entries, intercept and means. Fit it again.")
    length = float(np.linalg.norm(cav.vector.astype(np.float64)))
    if abs(length - 1) > LENGTH_TOLERANCE:
        raise InputError(
            f"The CAV {cav.name} in {file} must be of length 1. Got {length:.4g}: divide the vector, its intercept and "
            "its means by that."
        )


def save_cavs(path: Path, cavs: Cavs) -> None:
    """Write CAVs as one safetensors file; everything but the vectors is text or JSON in its metadata."""
    records = [{key: value for key, value in asdict(cav).items() if key != "vector"} for cav in cavs]
    vectors = {f"cav_{i}": cav.vector for i, cav in enumerate(cavs)}
    about = {"cavs": json.dumps(records), "model": cavs.model, "study": cavs.study, "seed": json.dumps(cavs.seed)}
    save_file(vectors, path, metadata=about)


def load_cavs(path: Path) -> Cavs:
    """Read what `save_cavs` wrote; what older files do not say is not known."""
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
        records = json.loads(about["cavs"])
        items = tuple(Cav(vector=file.get_tensor(f"cav_{i}"), **record) for i, record in enumerate(records))
        return Cavs(items, about.get("model", ""), about.get("study", ""), json.loads(about.get("seed", "null")))
