"""Concept activation vectors: directions of a layer that separate samples with an artifact from samples without."""

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, field_validator
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from xai_robustness.registry import Registry
from xai_robustness.types import InputError, Params

STRENGTHS = np.logspace(4, -5, 10)
"""Regularisation of ridge, strongest first; the inverse of the SVM's C."""

Hyperplane = tuple[np.ndarray, float]
CAV_KINDS: Registry[Callable[[np.ndarray, np.ndarray], Hyperplane]] = Registry("kind of CAV")


class CavParams(Params):
    """Which CAVs to fit.

    Example:
        >>> CavParams().kinds
        ('signal', 'mean', 'ridge', 'svm')
    """

    kinds: tuple[str, ...] = Field(("signal", "mean", "ridge", "svm"), min_length=1, description="kinds of CAV")
    layers: tuple[str, ...] = Field((), description="layers to fit in; empty: every layer of the latents")
    pool: str = Field("max", pattern="^(max|mean)$", description="spatial pooling of the activations")

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(CAV_KINDS.checked(kind) for kind in kinds)


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

    @property
    def name(self) -> str:
        """`<layer>/<kind>`, the column of its scores."""
        return f"{self.layer}/{self.kind}"

    def scores(self, features: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """Bias scores of pooled activations, float64 (N,); positive on the artifact's side."""
        return np.asarray(features, np.float64) @ self.vector.astype(np.float64) + self.intercept


@dataclass(frozen=True, eq=False)
class Cavs:
    """The CAVs of a study, one a layer and kind; empty where no artifact was confirmed."""

    items: tuple[Cav, ...] = ()

    def __iter__(self) -> Iterator[Cav]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def find(self, layer: str, kind: str) -> Cav:
        """The CAV of a layer and kind; raises InputError that lists those there are."""
        for cav in self.items:
            if (cav.layer, cav.kind) == (layer, kind):
                return cav
        names = ", ".join(cav.name for cav in self.items) or "none, since no artifact was confirmed"
        raise InputError(f"No CAV of kind '{kind}' in layer '{layer}'. There are: {names}.")


def fit_cav(
    features: Float[np.ndarray, "n k"],
    artifact: Bool[np.ndarray, " n"],
    kind: str,
    layer: str,
    pool: str = "max",
) -> Cav:
    """Fit one CAV; both classes count the same, whatever their sizes.

    Features are centred and divided by one number, their root mean square, before the fit, so that a strength of
    regularisation means the same in every layer; the direction is not touched by that.

    Args:
        features: pooled activations (N,K).
        artifact: whether a sample carries the artifact (N,).
        kind: a name of `CAV_KINDS`: signal [Pahde2025], mean, ridge or svm [Kim2018].
        layer: module path of the layer, kept with the CAV.
        pool: how the features were pooled, kept with the CAV.

    Raises:
        InputError: fewer than two samples with or without the artifact, or features that do not vary.
    """
    x = np.asarray(features, np.float64)
    n_artifact, n_clean = int(artifact.sum()), int((~artifact).sum())
    if min(n_artifact, n_clean) < 2:
        raise InputError(
            f"The artifact parameter of fit_cav must be at least 2 samples with and 2 without the artifact. "
            f"Got {n_artifact} and {n_clean} instead. Review more samples."
        )
    centre = x.mean(0)
    scale = float(np.sqrt(np.mean((x - centre) ** 2)))
    direction, offset = CAV_KINDS[kind]((x - centre) / (scale or 1.0), artifact)
    length = float(np.linalg.norm(direction))
    if not (length > 0 and np.isfinite(length)):
        raise InputError(f"The features of layer '{layer}' must differ between samples with and without the artifact.")
    vector = direction / length
    projected = x @ vector
    return Cav(
        vector=vector.astype(np.float32),
        intercept=float(offset * scale / length - vector @ centre),
        kind=kind,
        layer=layer,
        pool=pool,
        mean_clean=float(projected[~artifact].mean()),
        mean_artifact=float(projected[artifact].mean()),
        n_clean=n_clean,
        n_artifact=n_artifact,
    )


def balanced_weights(artifact: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Sample weights (N,) in (0,1], inversely proportional to the size of the class; the rarer class weighs 1."""
    sizes = np.array([(~artifact).sum(), artifact.sum()], np.float64)
    return (sizes.min() / sizes)[artifact.astype(int)]


def _midpoint(x: np.ndarray, artifact: np.ndarray, direction: np.ndarray) -> Hyperplane:
    return direction, float(-0.5 * direction @ (x[artifact].mean(0) + x[~artifact].mean(0)))


@CAV_KINDS.register("signal")
def signal_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Pattern CAV cov(x, y) / var(y) of every feature, threshold halfway between the class means [Pahde2025]."""
    weights = balanced_weights(artifact)
    y = np.where(artifact, 1.0, -1.0)
    y = y - np.average(y, weights=weights)
    covariance = (weights * y) @ (x - np.average(x, axis=0, weights=weights))
    return _midpoint(x, artifact, covariance / (weights @ y**2))


@CAV_KINDS.register("mean")
def mean_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Difference of the class means, threshold halfway between them; the same direction as `signal`."""
    return _midpoint(x, artifact, x[artifact].mean(0) - x[~artifact].mean(0))


@CAV_KINDS.register("ridge")
def ridge_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Ridge regression on targets -1 and 1; its strength maximises the cross-validated average precision."""

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        coefficients, intercepts = ridge_path(x[train], artifact[train], STRENGTHS)
        return coefficients @ x[test].T + intercepts[:, None]

    best = _best_strength(artifact, decide)
    coefficients, intercepts = ridge_path(x, artifact, STRENGTHS[[best]])
    return coefficients[0], float(intercepts[0])


@CAV_KINDS.register("svm")
def svm_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Linear support vector machine, balanced; its C maximises the cross-validated average precision [Kim2018]."""

    def fit(rows: np.ndarray, strength: float) -> LinearSVC:
        svm = LinearSVC(C=1 / strength, class_weight="balanced", random_state=0, max_iter=3000)
        return svm.fit(x[rows], artifact[rows])

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return np.stack([fit(train, strength).decision_function(x[test]) for strength in STRENGTHS])

    with warnings.catch_warnings():  # a weakly regularised candidate may stop early: it is judged by its precision
        warnings.simplefilter("ignore", ConvergenceWarning)
        best = fit(np.arange(len(x)), STRENGTHS[_best_strength(artifact, decide)])
    return best.coef_[0], float(best.intercept_[0])


def ridge_path(
    x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"], strengths: Float[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, "s k"], Float[np.ndarray, " s"]]:
    """Class-balanced ridge solutions with intercept for all strengths, from one eigendecomposition.

    Minimises sum_i w_i (y_i - b - x_i . v)^2 + strength |v|^2 with y in {-1, 1} and `balanced_weights`; decomposes
    the smaller of the two Gram matrices.

    Returns:
        Coefficients (S,K) and intercepts (S,).
    """
    weights = balanced_weights(artifact)
    y = np.where(artifact, 1.0, -1.0)
    x_mean, y_mean = np.average(x, axis=0, weights=weights), np.average(y, weights=weights)
    root = np.sqrt(weights)
    a, t = root[:, None] * (x - x_mean), root * (y - y_mean)
    tall = a.shape[0] >= a.shape[1]
    values, basis = np.linalg.eigh(a.T @ a if tall else a @ a.T)
    shrink = 1 / (np.maximum(values, 0) + np.asarray(strengths)[:, None])
    right = basis.T @ (a.T @ t if tall else t)
    coefficients = (shrink * right) @ basis.T
    coefficients = coefficients if tall else coefficients @ a
    return coefficients, y_mean - coefficients @ x_mean


def stratified_folds(artifact: Bool[np.ndarray, " n"], n_folds: int = 5) -> StratifiedKFold:
    """Folds that each hold both classes: as many as `n_folds`, fewer where a class is small, at least two."""
    smallest = int(min(artifact.sum(), (~artifact).sum()))
    return StratifiedKFold(max(2, min(n_folds, smallest)), shuffle=True, random_state=0)


def _best_strength(artifact: np.ndarray, decide: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> int:
    """Index of the strength with the best mean average precision; among equals the strongest."""
    folds = [
        [average_precision_score(artifact[test], scores) for scores in decide(train, test)]
        for train, test in stratified_folds(artifact).split(artifact, artifact)
    ]
    return int(np.argmax(np.round(np.mean(folds, axis=0), 9)))


def save_cavs(path: Path, cavs: Cavs) -> None:
    """Write CAVs as one safetensors file; everything but the vectors is JSON in its metadata."""
    records = [{key: value for key, value in asdict(cav).items() if key != "vector"} for cav in cavs]
    vectors = {f"cav_{i}": cav.vector for i, cav in enumerate(cavs)}
    save_file(vectors, path, metadata={"cavs": json.dumps(records)})


def load_cavs(path: Path) -> Cavs:
    """Read what `save_cavs` wrote."""
    with safe_open(path, framework="numpy") as file:
        records = json.loads(file.metadata()["cavs"])
        return Cavs(tuple(Cav(vector=file.get_tensor(f"cav_{i}"), **record) for i, record in enumerate(records)))
