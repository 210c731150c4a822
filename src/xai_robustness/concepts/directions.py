"""Directions that separate samples with an artifact from samples without: patterns and filters, and how strong to fit.

Patterns (signal, mean, median) say how the artifact changes the activations; filters (ridge, lasso, logistic, svm,
lda) say which weighting of the activations tells best that it is there [Pahde2022]. The strength of a filter's
regularisation maximises the cross-validated average precision, and both classes count the same. Signal, mean, ridge and
lda are computed from moments and read the samples block by block; the others need all samples in memory.
"""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, lasso_path

from xai_robustness.concepts.labelled import Labelled, balanced_weights
from xai_robustness.concepts.margin import svm_path
from xai_robustness.concepts.moments import Sides, shifted_solutions
from xai_robustness.metrics.ranking import average_precisions
from xai_robustness.registry import Registry

STRENGTHS = np.logspace(4, -5, 10)
"""Regularisation of ridge, strongest first; the inverse of C of the SVM and of the logistic regression."""

LASSO_STRENGTHS = np.logspace(0, -5, 11)
"""Regularisation of lasso, strongest first; those that leave no feature are dropped."""

SHRINKAGES = np.array([1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4])
"""Shrinkage of the covariance of LDA towards a multiple of the identity, strongest first."""


class Hyperplane(NamedTuple):
    """`direction @ x + offset > 0` says "artifact".

    Attributes:
        direction: (K,), of any length.
        offset: in the same unit as `direction @ x`.
        strength: of the regularisation that was chosen, an entry of the kind's list; None where there is none.
    """

    direction: Float[np.ndarray, " k"]
    offset: float
    strength: float | None = None


Planes = tuple[np.ndarray, np.ndarray]
"""Coefficients (S,K) and intercepts (S,) of every strength."""
Path = Callable[[int | None, np.ndarray], Planes]
"""A fold to leave out (None: none) and strengths -> their hyperplanes."""
Fit = Callable[[Labelled], Hyperplane]
CAV_KINDS: Registry[Fit] = Registry("kind of CAV")
PATTERNS = ("signal", "mean", "median")


def within_span(fit: Fit) -> Fit:
    """Let an L2-penalised fit work in the span of the samples where they are fewer than the features.

    Its solution lies there, and its scores depend on nothing else.
    """

    @wraps(fit)
    def fitted(samples: Labelled) -> Hyperplane:
        if samples.shape[0] >= samples.shape[1]:
            return fit(samples)
        inner, back = samples.in_span()
        if inner.shape[1] == 0:
            return Hyperplane(np.zeros(samples.shape[1]), 0.0)
        found = fit(inner)
        return found._replace(direction=back(found.direction))

    return fitted


@CAV_KINDS.register("signal")
def signal_direction(samples: Labelled) -> Hyperplane:
    """Pattern CAV cov(x, y) / var(y) of every feature, threshold halfway between the class means [Pahde2022].

    Where both classes weigh the same that is half the difference of their means.
    """
    return _threshold_halfway(samples.spread, samples.spread.difference / 2)


@CAV_KINDS.register("mean")
def mean_direction(samples: Labelled) -> Hyperplane:
    """Difference of the class means, threshold halfway between them; the same direction as `signal`."""
    return _threshold_halfway(samples.spread, samples.spread.difference)


def _threshold_halfway(sides: Sides, direction: np.ndarray) -> Hyperplane:
    return Hyperplane(direction, -float(direction @ sides.middle))


@CAV_KINDS.register("median")
def median_direction(samples: Labelled) -> Hyperplane:
    """Difference of the class medians of every feature, threshold halfway between them; all samples in memory."""
    x, artifact = samples.values, samples.artifact
    there, absent = np.median(x[artifact], axis=0), np.median(x[~artifact], axis=0)
    return Hyperplane(there - absent, float(-0.5 * (there - absent) @ (there + absent)))


@CAV_KINDS.register("ridge")
@within_span
def ridge_direction(samples: Labelled) -> Hyperplane:
    """Ridge regression on targets -1 and 1; its strength maximises the cross-validated average precision."""
    return _best_of(lambda without, strengths: ridge_path(samples.sides(without), strengths), STRENGTHS, samples)


@CAV_KINDS.register("lasso")
def lasso_direction(samples: Labelled) -> Hyperplane:
    """Balanced lasso on targets -1 and 1, sparse; one path of solutions a fold serves all strengths [Tibshirani1996].

    Strengths at which no feature is left on all samples are not tried. All samples in memory.
    """
    coefficients, intercepts = _lasso(samples.values, samples.artifact, LASSO_STRENGTHS)
    alive = np.flatnonzero(np.abs(coefficients).sum(1) > 0)
    if len(alive) == 0:
        return Hyperplane(coefficients[-1], float(intercepts[-1]))
    kept = LASSO_STRENGTHS[alive]

    def path(without: int | None, strengths: np.ndarray) -> Planes:
        if without is None:
            chosen = np.isin(LASSO_STRENGTHS, strengths)
            return coefficients[chosen], intercepts[chosen]
        return _lasso(*samples.outside(without), strengths)

    return _best_of(path, kept, samples)


def _lasso(x: np.ndarray, artifact: np.ndarray, strengths: np.ndarray) -> Planes:
    """Coefficients (S,K) and intercepts (S,) of the class-balanced lasso, strengths descending."""
    weights = balanced_weights(artifact)
    y = np.where(artifact, 1.0, -1.0)
    x_mean, root = np.average(x, axis=0, weights=weights), np.sqrt(weights * len(x) / weights.sum())
    a = np.asfortranarray(root[:, None] * (x - x_mean))
    with warnings.catch_warnings():  # a weakly regularised candidate may stop early: it is judged by its precision
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, found, _ = lasso_path(a, root * y, alphas=strengths, max_iter=300, tol=1e-4)  # the weighted mean of y is 0
    return found.T, -found.T @ x_mean


@CAV_KINDS.register("logistic")
@within_span
def logistic_direction(samples: Labelled) -> Hyperplane:
    """Balanced logistic regression with an L2 penalty, best C by cross-validation; all samples in memory."""

    def path(without: int | None, strengths: np.ndarray) -> Planes:
        x, artifact = samples.outside(without)
        several = (
            LogisticRegression(C=1 / s, class_weight="balanced", solver="newton-cholesky", max_iter=200)
            for s in strengths
        )
        models = [model.fit(x, artifact) for model in several]
        return np.stack([m.coef_[0] for m in models]), np.array([m.intercept_[0] for m in models])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separable samples and C = 1e5: judged by its precision, like the others
        return _best_of(path, STRENGTHS, samples)


@CAV_KINDS.register("svm")
@within_span
def svm_direction(samples: Labelled) -> Hyperplane:
    """Linear support vector machine, balanced; its C maximises the cross-validated average precision [Kim2018].

    All samples in memory.
    """
    return _best_of(lambda without, s: svm_path(*samples.outside(without), s), STRENGTHS, samples)


@CAV_KINDS.register("lda")
@within_span
def lda_direction(samples: Labelled) -> Hyperplane:
    """Fisher's linear discriminant with shrinkage, chosen by cross-validated average precision [Friedman1989]."""
    width = samples.width or samples.shape[1]
    return _best_of(lambda without, s: lda_path(samples.sides(without), s, width), SHRINKAGES, samples)


def _best_of(path: Path, strengths: Float[np.ndarray, " s"], samples: Labelled) -> Hyperplane:
    """The hyperplane of that strength of a path which separates held-out folds best."""
    planes = [path(fold, strengths) for fold in range(samples.fold.max() + 1)]
    scores = np.empty((len(strengths), len(samples.artifact)))
    for rows, x in samples.blocks():
        for fold, (coefficients, intercepts) in enumerate(planes):
            held = np.flatnonzero(samples.fold[rows] == fold)
            scores[:, rows.start + held] = coefficients @ x[held].T + intercepts[:, None]
    best = best_strength(scores, samples.artifact, samples.fold)
    coefficients, intercepts = path(None, strengths[[best]])
    return Hyperplane(coefficients[0], float(intercepts[0]), float(strengths[best]))


def best_strength(
    scores: Float[np.ndarray, "s n"], artifact: Bool[np.ndarray, " n"], fold: Int[np.ndarray, " n"]
) -> int:
    """Index of the strength with the best mean average precision over the folds; among equals the first, the strongest.

    Args:
        scores: of every strength and sample, by the fit that the sample's fold took no part in.
        artifact: (N,).
        fold: number of the fold (N,), from 0.
    """
    held = [fold == number for number in range(fold.max() + 1)]
    means = np.mean([average_precisions(scores[:, rows], artifact[rows]) for rows in held], axis=0)
    return int(np.argmax(np.round(means, 9)))


def lda_path(
    sides: Sides, shrinkages: Float[np.ndarray, " s"], width: int
) -> tuple[Float[np.ndarray, "s k"], Float[np.ndarray, " s"]]:
    """Linear discriminants with equal priors for all shrinkages, from one decomposition.

    Solves ((1 - g) S + g tr(S) / width I) v = m1 - m0, S the mean of the two class covariances (divided by their
    sizes).

    Args:
        sides: moments of both classes.
        shrinkages: g, in (0,1].
        width: number of features that the variance is averaged over.

    Returns:
        Coefficients (S,K) and intercepts (S,), zero halfway between the class means.
    """
    covariance = sides.within / 2
    ridge = np.maximum(shrinkages * np.trace(covariance) / width, 1e-12)
    kept = np.maximum(1 - shrinkages, 1e-12)
    coefficients = shifted_solutions(covariance, sides.difference, ridge / kept) / kept[:, None]
    return coefficients, -coefficients @ sides.middle


def ridge_path(
    sides: Sides, strengths: Float[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, "s k"], Float[np.ndarray, " s"]]:
    """Class-balanced ridge solutions with intercept for all strengths, from one decomposition.

    Minimises sum_i w_i (y_i - b - x_i . v)^2 + strength |v|^2 with y in {-1, 1} and `balanced_weights`. Both classes
    weigh the same, so that with n the size of the rarer one, d the difference of the means and W the sum of both
    covariances the normal equations are (W + d d' / 2 + strength / n I) v = d; the term of rank one is taken out by
    Sherman and Morrison's formula.

    Args:
        sides: moments of both classes.
        strengths: positive.

    Returns:
        Coefficients (S,K) and intercepts (S,), zero halfway between the class means.
    """
    size = min(sides.clean.size, sides.artifact.size)
    found = shifted_solutions(sides.within, sides.difference, strengths / size)
    coefficients = found / (1 + found @ sides.difference / 2)[:, None]
    return coefficients, -coefficients @ sides.middle
