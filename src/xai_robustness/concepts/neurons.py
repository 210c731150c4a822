"""Sets of neurons that speak together and split the samples of a class in two: suspects of the model's perspective."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.cluster import AgglomerativeClustering

from xai_robustness.concepts.separability import gaussian_null


@dataclass(frozen=True, eq=False)
class NeuronSet:
    """Neurons whose activations correlate over the samples of a class.

    Attributes:
        neurons: (M,) their numbers, closest to the set's mean first.
        signs: (M,) 1, or -1 for a neuron that falls silent where the others speak.
        activation: (N,) their pooled activation: mean of the standardised activations times their signs, turned so that
            the smaller side of the split is the higher one.
        inside: (N,) the smaller side of the split.
        statistic: distance of the means of both sides in pooled standard deviations.
    """

    neurons: Int[np.ndarray, " m"]
    signs: Int[np.ndarray, " m"]
    activation: Float[np.ndarray, " n"]
    inside: Bool[np.ndarray, " n"]
    statistic: float


def best_split(values: Float[np.ndarray, " n"], min_size: int) -> tuple[Bool[np.ndarray, " n"], float]:
    """The threshold split of values with the least variance within both sides, each of at least `min_size` [Otsu1979].

    Returns:
        Whether a value lies above (N,), and the distance of the two means in pooled standard deviations (0 where
        nothing varies or no split is large enough, infinite where the sides are two values).
    """
    x = np.sort(values)
    n = len(x)
    cuts = np.arange(min_size, n - min_size + 1)
    cuts = cuts[x[cuts - 1] < x[np.minimum(cuts, n - 1)]] if len(cuts) else cuts
    if len(cuts) == 0:
        return np.zeros(n, bool), 0.0
    total, squares = np.cumsum(x), np.cumsum(x**2)
    low, high = total[cuts - 1] / cuts, (total[-1] - total[cuts - 1]) / (n - cuts)
    variance_low = np.maximum(squares[cuts - 1] / cuts - low**2, 0)
    variance_high = np.maximum((squares[-1] - squares[cuts - 1]) / (n - cuts) - high**2, 0)
    best = int(np.argmin(cuts * variance_low + (n - cuts) * variance_high))
    spread = np.sqrt((x[: cuts[best]].var() + x[cuts[best] :].var()) / 2)  # running sums round where nothing varies
    gap = high[best] - low[best]
    statistic = float(gap / spread) if spread > 1e-12 * abs(gap) else np.inf
    return values >= x[cuts[best]], statistic


def neuron_sets(
    activations: Float[np.ndarray, "n k"], min_size: int, min_neurons: int = 2, correlation: float = 0.5
) -> list[NeuronSet]:
    """Group the neurons of a layer by the correlation of their activations over the samples, and split each group.

    Average linkage on 1 - |correlation|, cut where the mean falls below `correlation`; neurons that do not vary are
    left out, and so are groups of fewer than `min_neurons` and groups that split off fewer than `min_size` samples.

    Args:
        activations: pooled activations (N,K) of the samples of one class.
        min_size: samples of the smaller side of a split.
        min_neurons: neurons of a set.
        correlation: mean absolute correlation within a set.

    Returns:
        The sets, the largest statistic first.
    """
    x = np.asarray(activations, np.float64)
    spread = x.std(0)
    alive = np.flatnonzero(spread > 1e-9 * (np.abs(x).max() or 1.0))
    if len(alive) < max(min_neurons, 2) or len(x) < 2 * min_size:
        return []
    z = (x[:, alive] - x[:, alive].mean(0)) / spread[alive]
    agree = z.T @ z / len(z)
    model = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - correlation
    )
    labels = model.fit_predict(np.clip(1 - np.abs(agree), 0, 1))
    found = [_set(z, agree, alive, np.flatnonzero(labels == g), min_size) for g in np.unique(labels)]
    kept = [s for s in found if len(s.neurons) >= min_neurons and s.inside.any()]
    return sorted(kept, key=lambda s: (-s.statistic, int(s.neurons[0])))


def _set(z: np.ndarray, agree: np.ndarray, alive: np.ndarray, members: np.ndarray, min_size: int) -> NeuronSet:
    own = agree[np.ix_(members, members)]
    lead = int(np.abs(own).sum(1).argmax())
    signs = np.where(own[lead] < 0, -1, 1)
    pooled = (z[:, members] * signs).mean(1)
    inside, statistic = best_split(pooled, min_size)
    if inside.sum() * 2 > len(inside):
        signs, pooled, inside = -signs, -pooled, ~inside
    order = np.argsort(-np.abs(own[lead]), kind="stable")
    return NeuronSet(alive[members[order]], signs[order], pooled, inside, statistic)


def null_statistics(
    activations: Float[np.ndarray, "n k"], min_size: int, n_null: int, rng: np.random.Generator
) -> list[float]:
    """The largest statistic of `neuron_sets` in each of `n_null` Gaussian sets of the same covariance."""
    x = np.asarray(activations, np.float64)
    sets = (neuron_sets(gaussian_null(x, rng), min_size) for _ in range(n_null))
    return [max((s.statistic for s in found), default=0.0) for found in sets]
