"""Bootstrap intervals without a loop over replicates: a replicate is a column of sample multiplicities."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError

LEVEL = 0.95
"""Confidence level of every interval in the project."""

N_BOOT = 1000
"""Default number of bootstrap replicates."""

BLOCK_ELEMENTS = 500_000
"""Multiplicities drawn at once (4 MB), so that memory does not grow with the number of samples."""

Weights = Float[np.ndarray, "n b"]
Statistic = Callable[[Weights], Float[np.ndarray, " b"]]


class Interval(NamedTuple):
    """A value with its percentile bootstrap interval; all NaN where the value is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """Resamples with replacement of `n` samples, the same ones for every statistic and every model.

    Equal arguments give equal resamples, so statistics of two models are paired even over separate calls.

    Attributes:
        strata: (N,) group of each sample, any type; each group keeps its size in every replicate, so no class vanishes.
        n_boot: number of replicates.
        seed: the run's seed; the draws come from its stream `bootstrap`.
    """

    strata: Shaped[np.ndarray, " n"]
    n_boot: int = N_BOOT
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.strata) == 0:
            raise InputError("The strata parameter of Resamples must be of at least one sample. Got 0 samples instead.")
        if self.n_boot < 1:
            raise InputError(f"The n_boot parameter of Resamples must be at least 1. Got {self.n_boot} instead.")

    def blocks(self) -> Iterator[Weights]:
        """Yield multiplicities float64 (N,b), replicates in columns, until `n_boot` replicates are drawn."""
        n = len(self.strata)
        groups = [np.flatnonzero(self.strata == value) for value in np.unique(self.strata)]
        size = min(max(BLOCK_ELEMENTS // n, 1), self.n_boot)
        for start in range(0, self.n_boot, size):
            b = min(size, self.n_boot - start)
            rng = numpy_rng(self.seed, "bootstrap", start)
            weights = np.empty((n, b))
            for rows in groups:
                weights[rows] = _multiplicities(rng, len(rows), b)
            yield weights


def _multiplicities(rng: np.random.Generator, m: int, b: int) -> Weights:
    drawn = rng.integers(0, m, size=(m, b))
    return np.bincount((drawn * b + np.arange(b)).ravel(), minlength=m * b).reshape(m, b).astype(float)


def once(n: int) -> Weights:
    """Weights (N,1) of the sample itself: the statistic of this column is the point estimate."""
    return np.ones((n, 1))


def replicates(statistic: Statistic, resamples: Resamples) -> Float[np.ndarray, " b"]:
    """The statistic of every resample, (n_boot,)."""
    return np.concatenate([statistic(weights) for weights in resamples.blocks()])


def percentile_interval(value: float, values: Float[np.ndarray, " b"]) -> Interval:
    """The 95 % percentile interval of replicates around a point estimate [Efron1993].

    Replicates where the statistic is undefined (NaN) are left out. Where the point estimate is NaN, or every
    replicate is, the bounds are NaN.
    """
    defined = values[~np.isnan(values)]
    if np.isnan(value) or len(defined) == 0:
        return Interval(float(value), np.nan, np.nan)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def bootstrap(statistic: Statistic, resamples: Resamples) -> Interval:
    """Value and 95 % interval of a statistic that takes weights (N,b) and gives (b,).

    Example:
        >>> x = np.arange(10.0)
        >>> bootstrap(lambda weights: x @ weights / len(x), Resamples(np.zeros(10), n_boot=200)).value
        4.5
    """
    value = statistic(once(len(resamples.strata)))[0]
    return percentile_interval(value, replicates(statistic, resamples))


def mean_interval(values: Float[np.ndarray, " n"], n_boot: int = N_BOOT, seed: int = 0) -> Interval:
    """Mean of per-sample values with its 95 % bootstrap interval.

    Args:
        values: (N,); NaN marks a sample where the metric is undefined, which is left out.
        n_boot: number of replicates.
        seed: the run's seed.

    Returns:
        Value and bounds; all NaN where no value is defined. A paired difference is the mean of the differences.

    Example:
        >>> mean_interval(np.array([1.0, 1.0, np.nan]))
        Interval(value=1.0, low=1.0, high=1.0)
    """
    values = np.asarray(values, dtype=float)
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return Interval(np.nan, np.nan, np.nan)
    resamples = Resamples(np.zeros(len(defined)), n_boot, seed)
    return bootstrap(lambda weights: defined @ weights / len(defined), resamples)
