"""Prototypes of a class's prediction strategies: a Gaussian mixture in the space of relevances (PCX)."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from xai_robustness.concepts.separability import principal_components
from xai_robustness.randomness import seed_for
from xai_robustness.types import InputError

N_PROTOTYPES, N_SAMPLES, N_CONCEPTS = 4, 4, 6
PROTOTYPE_COLUMNS = ("class", "layer", "prototype", "coverage", "sample_id", "place")
CONCEPT_COLUMNS = ("class", "layer", "prototype", "neuron", "percent", "sample_id")


@dataclass(frozen=True, eq=False)
class Prototypes:
    """What `fit_prototypes` found in one class and layer.

    Attributes:
        means: (P,K) mean relevances as shares, one row a prototype.
        coverage: (P,) share of the samples that are nearest to it.
        nearest: (P,S) rows of the samples closest to it, closest first.
        concepts: (Q,) channels whose mean relevance tells the prototypes, strongest first.
        matrix: (P,Q) mean relevances of these channels in percent.
        likelihood: (N,) log density of each sample under the mixture: low means unlike every strategy.
    """

    means: Float[np.ndarray, "p k"]
    coverage: Float[np.ndarray, " p"]
    nearest: Int[np.ndarray, "p s"]
    concepts: Int[np.ndarray, " q"]
    matrix: Float[np.ndarray, "p q"]
    likelihood: Float[np.ndarray, " n"]


def fit_prototypes(
    features: Float[np.ndarray, "n k"], seed: int, n_prototypes: int = N_PROTOTYPES, n_samples: int = N_SAMPLES
) -> Prototypes:
    """Fit a mixture of Gaussians with full covariance to the relevances of one class [Dreyer2024].

    Started from k-means, ridge 1e-6, at most 10 iterations, as published. With fewer samples than ten for each feature
    the mixture is fitted on the principal components (as many as a tenth of the samples, at least 2), where a full
    covariance can be estimated; the means are those of the original features, weighted by responsibility.

    Args:
        features: relevances as shares (N,K) of correctly predicted samples of a class.
        seed: the run's seed.
        n_prototypes: components of the mixture.
        n_samples: nearest samples kept for each.

    Raises:
        InputError: fewer samples than twice the prototypes, or features that are not finite.
    """
    x = np.asarray(features, np.float64)
    if len(x) < 2 * n_prototypes or not np.isfinite(x).all():
        raise InputError(
            f"The features parameter of fit_prototypes must be finite and of at least {2 * n_prototypes} samples. Got "
            f"{len(x)} samples and {int((~np.isfinite(x)).sum())} values that are not finite. Ask for fewer prototypes."
        )
    fitted_on = x if len(x) >= 10 * x.shape[1] else principal_components(x, max(2, len(x) // 10))
    fitted_on = fitted_on / (fitted_on.std() or 1.0)
    mixture = GaussianMixture(
        n_prototypes, reg_covar=1e-6, max_iter=10, random_state=seed_for(seed, "prototypes") % 2**32
    )
    with warnings.catch_warnings():  # ten iterations are the published choice
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(fitted_on)
    weights = mixture.predict_proba(fitted_on)
    means = (weights.T @ x) / np.maximum(weights.sum(0)[:, None], 1e-12)
    distance = np.linalg.norm(x[:, None] - means[None], axis=-1)
    coverage = np.bincount(distance.argmin(1), minlength=n_prototypes) / len(x)
    nearest = np.argsort(distance, axis=0, kind="stable")[:n_samples].T
    concepts = prototype_concepts(means)
    return Prototypes(means, coverage, nearest, concepts, 100 * means[:, concepts], mixture.score_samples(fitted_on))


def prototype_concepts(means: Float[np.ndarray, "p k"], count: int = N_CONCEPTS) -> Int[np.ndarray, " q"]:
    """Channels shown in the concept matrix: the union of each prototype's strongest, grown until it exceeds `count`.

    Starts with the two channels of the largest absolute mean of each prototype, takes one more of each until there are
    more than `count`, or no more, and keeps the `count` with the largest absolute mean in any prototype.

    Example:
        >>> prototype_concepts(np.array([[3.0, 0.0, -2.0, 1.0], [0.0, 5.0, 1.0, 0.0]]), count=3).tolist()
        [1, 0, 2]
    """
    order = np.argsort(-np.abs(means), axis=1, kind="stable")
    taken = 2
    while len(np.unique(order[:, :taken])) <= count and taken < means.shape[1]:
        taken += 1
    chosen = np.unique(order[:, :taken])
    strength = np.abs(means).max(0)[chosen]
    return chosen[np.argsort(-strength, kind="stable")][:count]


def prototype_table(found: Prototypes, sample_ids: Int[np.ndarray, " n"], c: int, layer: str) -> pd.DataFrame:
    """`PROTOTYPE_COLUMNS`: the nearest samples of each prototype, place 0 the closest."""
    rows = [
        (c, layer, p, float(found.coverage[p]), int(sample_ids[row]), place)
        for p, nearest in enumerate(found.nearest)
        for place, row in enumerate(nearest)
    ]
    return pd.DataFrame(rows, columns=list(PROTOTYPE_COLUMNS))


def concept_table(
    found: Prototypes, features: Float[np.ndarray, "n k"], sample_ids: Int[np.ndarray, " n"], c: int, layer: str
) -> pd.DataFrame:
    """`CONCEPT_COLUMNS`: the concept matrix, with the sample in which each channel has the largest share.

    Args:
        found: of `fit_prototypes`.
        features: as given to it.
        sample_ids: of the features.
        c: their class.
        layer: their layer.
    """
    references = sample_ids[features[:, found.concepts].argmax(0)]
    rows = [
        (c, layer, p, int(channel), float(percent), int(reference))
        for p, line in enumerate(found.matrix)
        for channel, percent, reference in zip(found.concepts, line, references)
    ]
    return pd.DataFrame(rows, columns=list(CONCEPT_COLUMNS))
