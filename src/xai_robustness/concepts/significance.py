"""How surprising a suspect is: p-values from structureless data, and the false-discovery rate over many of them."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from jaxtyping import Float

from xai_robustness.randomness import numpy_rng

N_PIVOTS = 100_000


def benjamini_hochberg(p: Float[np.ndarray, " m"], tests: int = 0) -> Float[np.ndarray, " m"]:
    """Adjusted p-values (M,) in [0,1]: those below a level have at most that false-discovery rate [Benjamini1995].

    NaN (undefined) stays NaN and does not count as a test.

    Args:
        p: p-values; of more tests, the best ones.
        tests: how many tests there were, those that are not in `p` among them; at least as many as are in `p`.

    Example:
        >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.5])).round(3).tolist()
        [0.04, 0.053, 0.053, 0.5]
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    rows = np.flatnonzero(~np.isnan(p))
    order = rows[np.argsort(p[rows], kind="stable")]
    raised = p[order] * max(tests, len(order)) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1)
    return adjusted


def reference_of_others(largest: Mapping[int, float]) -> dict[int, float]:
    """What natural structure reaches: for each class the median of the other classes' largest statistics.

    Data have structure that no Gaussian null has, in every class; an artifact sits in one or few. So the other classes
    are the null that is measured rather than assumed [Efron2004]. NaN for a single class.

    Example:
        >>> reference_of_others({0: 9.0, 1: 3.0, 2: 4.0})
        {0: 3.5, 1: 6.5, 2: 6.0}
    """
    found = {}
    for c in largest:
        others = [value for other, value in largest.items() if other != c]
        found[c] = float(np.median(others)) if others else float("nan")
    return found


def monte_carlo_p(value: float, null: Sequence[float]) -> float:
    """Share of the null's values, the observed one among them, that are at least as large [Davison1997].

    Never below 1 / (B + 1) for B null values, and valid whatever their distribution.

    Example:
        >>> monte_carlo_p(3.0, [1.0, 2.0, 4.0])
        0.5
    """
    return (1 + sum(other >= value for other in null)) / (1 + len(null))


def extreme_p(value: float, null: Sequence[float]) -> float:
    """Chance of a value as large, from few maxima of structureless sets; reaches below 1 / (B + 1), down to 1e-5.

    The maxima are taken to follow Gumbel's law, the limit law of a largest of many [Gumbel1958]. Its place and scale
    are unknown, but the distance of one more draw from the mean of B others in their standard deviations has a law of
    its own, which is simulated: so the p-value is exact under Gumbel's law, however few the maxima. With a single null
    value, or equal ones, it is `monte_carlo_p`.
    """
    if len(null) < 2 or np.ptp(null) == 0:
        return monte_carlo_p(value, null)
    pivot = (value - float(np.mean(null))) / float(np.std(null, ddof=1))
    law = _pivots(len(null))
    return float((1 + len(law) - np.searchsorted(law, pivot, "left")) / (1 + len(law)))


@cache
def _pivots(n: int) -> Float[np.ndarray, " m"]:
    """Sorted simulated distances of a Gumbel draw from the mean of `n` others, in their standard deviations."""
    draws = numpy_rng(0, "extreme_p", n).gumbel(size=(N_PIVOTS, n + 1))
    return np.sort((draws[:, 0] - draws[:, 1:].mean(1)) / draws[:, 1:].std(1, ddof=1))
