"""Samples or neurons that lie apart: the local outlier factor, against data that have no outliers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.neighbors import LocalOutlierFactor

from xai_robustness.concepts.separability import gaussian_null
from xai_robustness.concepts.significance import benjamini_hochberg
from xai_robustness.types import InputError


@dataclass(frozen=True, eq=False)
class Outliers:
    """Local outlier factors and what they are worth.

    Attributes:
        factor: (N,) local outlier factor, about 1 in the midst of the others.
        p_value: (N,) chance of a factor as large in Gaussian data of the same covariance.
        q_value: (N,) p-values adjusted for the number of rows.
        null_largest: (B,) largest factor of each set of Gaussian data.
    """

    factor: Float[np.ndarray, " n"]
    p_value: Float[np.ndarray, " n"]
    q_value: Float[np.ndarray, " n"]
    null_largest: Float[np.ndarray, " b"]


def outlier_factor(features: Float[np.ndarray, "n d"], n_neighbors: int = 20) -> Float[np.ndarray, " n"]:
    """Local outlier factor (N,) of each row [Breunig2000]; fewer neighbours where there are fewer rows."""
    model = LocalOutlierFactor(n_neighbors=max(1, min(n_neighbors, len(features) - 1)))
    return -model.fit(features).negative_outlier_factor_


def find_outliers(
    features: Float[np.ndarray, "n d"],
    rng: np.random.Generator,
    n_neighbors: int = 20,
    n_null: int = 19,
) -> Outliers:
    """Local outlier factors against those that Gaussian data of the same covariance give.

    A fixed threshold at 1 marks half of any data. Here each factor is compared with those of all rows of `n_null` sets
    of structureless samples, and the p-values are adjusted for the number of rows [Benjamini1995]: of a lone outlier
    they are about 1 / n_null at least. Heavy tails that are no outliers still have small ones: the null is Gaussian.

    Args:
        features: (N,D).
        rng: draws the null.
        n_neighbors: neighbourhood of the factor.
        n_null: sets of the null.

    Raises:
        InputError: fewer than 3 rows, or values that are not finite.
    """
    x = np.asarray(features, np.float64)
    if len(x) < 3 or not np.isfinite(x).all():
        raise InputError(
            f"The features parameter of find_outliers must be finite and of at least 3 rows. Got {len(x)} rows and "
            f"{int((~np.isfinite(x)).sum())} values that are not finite instead."
        )
    factor = outlier_factor(x, n_neighbors)
    null = np.stack([outlier_factor(gaussian_null(x, rng), n_neighbors) for _ in range(n_null)])
    pooled = np.sort(null.ravel())
    p = (1 + len(pooled) - np.searchsorted(pooled, factor, "left")) / (1 + len(pooled))
    return Outliers(factor, p, benjamini_hochberg(p), null.max(1))
