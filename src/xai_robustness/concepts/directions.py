"""Directions that separate samples with an artifact from samples without: patterns and filters, and how strong to fit.

Patterns (signal, mean, median) say how the artifact changes the activations; filters (ridge, lasso, logistic, svm,
lda) say which weighting of the activations tells best that it is there [Pahde2022]. The strength of a filter's
regularisation maximises the cross-validated average precision, and both classes count the same.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import linalg
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, lasso_path
from sklearn.model_selection import StratifiedKFold

from xai_robustness.concepts.margin import svm_path
from xai_robustness.metrics.ranking import average_precision
from xai_robustness.registry import Registry

SAFE = 1e-6
"""Share of the trace from which a ridge makes a system of equations solvable in double precision."""
STRENGTHS = np.logspace(4, -5, 10)
"""Regularisation of ridge, strongest first; the inverse of C of the SVM and of the logistic regression."""

LASSO_STRENGTHS = np.logspace(0, -5, 11)
"""Regularisation of lasso, strongest first; those that leave no feature are dropped."""

SHRINKAGES = np.array([1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4])
"""Shrinkage of the covariance of LDA towards a multiple of the identity, strongest first."""

Hyperplane = tuple[np.ndarray, float]
Decide = Callable[[np.ndarray, np.ndarray], np.ndarray]
CAV_KINDS: Registry[Callable[[np.ndarray, np.ndarray], Hyperplane]] = Registry("kind of CAV")
PATTERNS = ("signal", "mean", "median")


def balanced_weights(artifact: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Sample weights (N,) in (0,1], inversely proportional to the size of the class; the rarer class weighs 1."""
    sizes = np.array([(~artifact).sum(), artifact.sum()], np.float64)
    return (sizes.min() / sizes)[artifact.astype(int)]


def _midpoint(x: np.ndarray, artifact: np.ndarray, direction: np.ndarray) -> Hyperplane:
    return direction, float(-0.5 * direction @ (x[artifact].mean(0) + x[~artifact].mean(0)))


@CAV_KINDS.register("signal")
def signal_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Pattern CAV cov(x, y) / var(y) of every feature, threshold halfway between the class means [Pahde2022]."""
    weights = balanced_weights(artifact)
    y = np.where(artifact, 1.0, -1.0)
    y = y - np.average(y, weights=weights)
    covariance = (weights * y) @ (x - np.average(x, axis=0, weights=weights))
    return _midpoint(x, artifact, covariance / (weights @ y**2))


@CAV_KINDS.register("mean")
def mean_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Difference of the class means, threshold halfway between them; the same direction as `signal`."""
    return _midpoint(x, artifact, x[artifact].mean(0) - x[~artifact].mean(0))


@CAV_KINDS.register("median")
def median_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Difference of the class medians of every feature, threshold halfway between them."""
    there, absent = np.median(x[artifact], axis=0), np.median(x[~artifact], axis=0)
    return there - absent, float(-0.5 * (there - absent) @ (there + absent))


@CAV_KINDS.register("ridge")
def ridge_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Ridge regression on targets -1 and 1; its strength maximises the cross-validated average precision."""
    return _best_of(ridge_path, STRENGTHS, x, artifact)


@CAV_KINDS.register("lasso")
def lasso_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Balanced lasso on targets -1 and 1, sparse; one path of solutions a fold serves all strengths [Tibshirani1996].

    Strengths at which no feature is left on all samples are not tried.
    """
    coefficients, intercepts = _lasso(x, artifact, LASSO_STRENGTHS)
    alive = np.flatnonzero(np.abs(coefficients).sum(1) > 0)
    if len(alive) == 0:
        return coefficients[-1], float(intercepts[-1])

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        fitted, offsets = _lasso(x[train], artifact[train], LASSO_STRENGTHS[alive])
        return fitted @ x[test].T + offsets[:, None]

    best = alive[best_strength(artifact, decide)]
    return coefficients[best], float(intercepts[best])


def _lasso(x: np.ndarray, artifact: np.ndarray, strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (S,K) and intercepts (S,) of the class-balanced lasso, strengths descending."""
    a, t, x_mean, y_mean = _weighted(x, artifact)
    scale = np.sqrt(len(x) / balanced_weights(artifact).sum())
    with warnings.catch_warnings():  # a weakly regularised candidate may stop early: it is judged by its precision
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, found, _ = lasso_path(np.asfortranarray(a * scale), t * scale, alphas=strengths, max_iter=300, tol=1e-4)
    return found.T, y_mean - found.T @ x_mean


@CAV_KINDS.register("logistic")
def logistic_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Balanced logistic regression with an L2 penalty; its C maximises the cross-validated average precision."""

    def fit(rows: np.ndarray, strength: float) -> tuple[LogisticRegression, np.ndarray]:
        basis = span(x[rows])
        model = LogisticRegression(C=1 / strength, class_weight="balanced", solver="newton-cholesky", max_iter=200)
        return model.fit(x[rows] @ basis, artifact[rows]), basis

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        fitted = (fit(train, strength) for strength in STRENGTHS)
        return np.stack([model.decision_function(x[test] @ basis) for model, basis in fitted])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separable samples and C = 1e5: judged by its precision, like the others
        model, basis = fit(np.arange(len(x)), STRENGTHS[best_strength(artifact, decide)])
    return basis @ model.coef_[0], float(model.intercept_[0])


def span(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "k r"]:
    """Orthonormal basis (K,R) in which an L2-penalised fit has all of its solution: of the rows, if they are fewer.

    Example:
        >>> span(np.ones((1, 4))).shape, span(np.ones((5, 4))).shape
        ((4, 1), (4, 4))
    """
    return np.eye(x.shape[1]) if len(x) >= x.shape[1] else np.linalg.qr(x.T)[0]


@CAV_KINDS.register("svm")
def svm_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Linear support vector machine, balanced; its C maximises the cross-validated average precision [Kim2018]."""
    return _best_of(svm_path, STRENGTHS, x, artifact)


@CAV_KINDS.register("lda")
def lda_direction(x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> Hyperplane:
    """Fisher's linear discriminant with shrinkage, chosen by cross-validated average precision [Friedman1989]."""
    return _best_of(lda_path, SHRINKAGES, x, artifact)


def _best_of(path: Callable[..., Any], strengths: np.ndarray, x: np.ndarray, artifact: np.ndarray) -> Hyperplane:
    """The hyperplane of that strength of a path which separates held-out folds best."""

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        coefficients, intercepts = path(x[train], artifact[train], strengths)
        return np.asarray(coefficients @ x[test].T + intercepts[:, None])

    coefficients, intercepts = path(x, artifact, strengths[[best_strength(artifact, decide)]])
    return coefficients[0], float(intercepts[0])


def lda_path(
    x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"], shrinkages: Float[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, "s k"], Float[np.ndarray, " s"]]:
    """Linear discriminants with equal priors for all shrinkages, from one decomposition.

    Solves ((1 - g) S + g tr(S) / K I) v = m1 - m0, S the mean of the two class covariances (divided by their sizes),
    in the span of the samples if they are fewer than the features.

    Returns:
        Coefficients (S,K) and intercepts (S,), zero halfway between the class means.
    """
    means = np.stack([x[~artifact].mean(0), x[artifact].mean(0)])
    sizes = np.array([(~artifact).sum(), artifact.sum()])
    a = (x - means[artifact.astype(int)]) / np.sqrt(2 * sizes[artifact.astype(int)])[:, None]
    difference = means[1] - means[0]
    tall = a.shape[0] >= a.shape[1]
    values, basis = np.linalg.eigh(a.T @ a if tall else a @ a.T)
    values = np.maximum(values, 0)
    if not tall:
        kept = values > 1e-12 * max(values.max(), 1e-300)
        values, basis = values[kept], a.T @ basis[:, kept] / np.sqrt(values[kept])
    ridge = np.maximum(shrinkages[:, None] * (a**2).sum() / a.shape[1], 1e-12)
    inside = difference @ basis
    coefficients = (inside / ((1 - shrinkages)[:, None] * values + ridge)) @ basis.T
    coefficients += (difference - basis @ inside) / ridge
    return coefficients, -0.5 * coefficients @ means.sum(0)


def _weighted(x: np.ndarray, artifact: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Rows and targets, centred and multiplied by the root of the balanced weights, and what they were centred by."""
    weights = balanced_weights(artifact)
    y = np.where(artifact, 1.0, -1.0)
    x_mean, y_mean = np.average(x, axis=0, weights=weights), float(np.average(y, weights=weights))
    root = np.sqrt(weights)
    return root[:, None] * (x - x_mean), root * (y - y_mean), x_mean, y_mean


def ridge_path(
    x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"], strengths: Float[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, "s k"], Float[np.ndarray, " s"]]:
    """Class-balanced ridge solutions with intercept for all strengths, from one eigendecomposition.

    Minimises sum_i w_i (y_i - b - x_i . v)^2 + strength |v|^2 with y in {-1, 1} and `balanced_weights`; decomposes
    the smaller of the two Gram matrices. For a single strength that is not tiny it solves one system instead.

    Returns:
        Coefficients (S,K) and intercepts (S,).
    """
    a, t, x_mean, y_mean = _weighted(x, artifact)
    tall = a.shape[0] >= a.shape[1]
    gram, right = (a.T @ a, a.T @ t) if tall else (a @ a.T, t)
    if len(strengths) == 1 and strengths[0] > SAFE * np.trace(gram):
        solved = linalg.solve(gram + strengths[0] * np.eye(len(gram)), right, assume_a="pos")[None]
    else:
        values, basis = np.linalg.eigh(gram)
        shrink = 1 / (np.maximum(values, 0) + np.asarray(strengths)[:, None])
        solved = (shrink * (basis.T @ right)) @ basis.T
    coefficients = solved if tall else solved @ a
    return coefficients, y_mean - coefficients @ x_mean


def stratified_folds(artifact: Bool[np.ndarray, " n"], n_folds: int = 5) -> StratifiedKFold:
    """Folds that each hold both classes: as many as `n_folds`, fewer where a class is small, at least two."""
    smallest = int(min(artifact.sum(), (~artifact).sum()))
    return StratifiedKFold(max(2, min(n_folds, smallest)), shuffle=True, random_state=0)


def best_strength(artifact: Bool[np.ndarray, " n"], decide: Decide) -> int:
    """Index of the strength with the best mean average precision over the folds; among equals the strongest.

    Args:
        artifact: (N,).
        decide: rows to fit on and rows to score -> scores (S,M) of every strength.
    """
    folds = [
        [average_precision(scores, artifact[test]) for scores in decide(train, test)]
        for train, test in stratified_folds(artifact).split(artifact, artifact)
    ]
    return int(np.argmax(np.round(np.mean(folds, axis=0), 9)))
