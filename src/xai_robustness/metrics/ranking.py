"""AUROC and average precision of weighted samples, for many weightings of one ranking at once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from xai_robustness.metrics.bootstrap import N_BOOT, Interval, Resamples, Weights, bootstrap, once
from xai_robustness.types import InputError


@dataclass(frozen=True)
class Ranking:
    """Binary labels ranked by a score; sorts once, then serves any number of weightings.

    Attributes:
        order: (N,) rows by ascending score.
        positive: bool (N,) in that order.
        first: (N,) first place of the tie group of each place.
        last: (N,) last place of the tie group of each place.
    """

    order: Int[np.ndarray, " n"]
    positive: Bool[np.ndarray, " n"]
    first: Int[np.ndarray, " n"]
    last: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> "Ranking":
        """Rank `scores` (N,), higher meaning more positive; a NaN score raises InputError."""
        scores, positive = np.asarray(scores), np.asarray(positive)
        if scores.shape != positive.shape or scores.ndim != 1 or not set(np.unique(positive)) <= {0, 1}:
            raise InputError(
                "The scores and positive parameters of Ranking.of must be one score and one bool a sample. "
                f"Got shapes {scores.shape} and {positive.shape} (values {np.unique(positive)[:4]}) instead."
            )
        if np.isnan(scores).any():
            raise InputError("The scores parameter of Ranking.of must be free of NaN. Leave undefined samples out.")
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        first, last = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right") - 1
        return cls(order, positive[order].astype(bool), first, last)

    def auroc(self, weights: Weights) -> Float[np.ndarray, " b"]:
        """Area under the ROC curve in [0,1] of each weighting, ties counting one half [Fawcett2006].

        Args:
            weights: (N,b) non-negative, in the order of the scores given to `of`.

        Returns:
            (b,); NaN, meaning undefined, where positives or negatives have no weight.
        """
        negative_rows, lower, upper = self._negatives_below
        negatives = np.zeros((len(negative_rows) + 1, weights.shape[1]))
        np.cumsum(weights[negative_rows], axis=0, out=negatives[1:])
        positives = weights[self.order[self.positive]]
        wins = np.einsum("nb,nb->b", positives, negatives[lower])
        if (lower != upper).any():
            wins = (wins + np.einsum("nb,nb->b", positives, negatives[upper])) / 2
        return _ratio(wins, negatives[-1] * positives.sum(axis=0))

    @cached_property
    def _negatives_below(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the negatives in order, and for each positive how many lie strictly below and not above it."""
        counts = np.concatenate([[0], np.cumsum(~self.positive)])
        return self.order[~self.positive], counts[self.first[self.positive]], counts[self.last[self.positive] + 1]

    def average_precision(self, weights: Weights) -> Float[np.ndarray, " b"]:
        """Average precision in [0,1] of each weighting: mean over positives of the precision at their score.

        Args:
            weights: (N,b) non-negative, in the order of the scores given to `of`.

        Returns:
            (b,); NaN, meaning undefined, where positives have no weight.
        """
        ranked = weights[self.order]
        places = np.flatnonzero(self.positive)
        start = self.first[places]
        found = _from_end(ranked * self.positive[:, None])[start]
        precision = _ratio(found, _from_end(ranked)[start], empty=0.0)
        return _ratio((ranked[places] * precision).sum(axis=0), ranked[places].sum(axis=0))

    def kendall_tau(self, weights: Weights) -> Float[np.ndarray, " b"]:
        """Kendall's tau-b in [-1,1] between score and label, of each weighting by whole multiplicities [Kendall1945].

        Ties are between different samples: copies of one do not make a replicate look more ordered than the sample is.

        Args:
            weights: (N,b) counts of each sample, in the order of the scores given to `of`.

        Returns:
            (b,); NaN, meaning undefined, where all scores or all labels are the same.
        """
        ranked = weights[self.order]
        total = ranked.sum(axis=0)
        positives = ranked[self.positive].sum(axis=0)
        apart = positives * (total - positives)
        groups = np.add.reduceat(ranked, np.unique(self.first), axis=0)
        untied = (total * (total - 1) - (groups**2).sum(axis=0) + (ranked**2).sum(axis=0)) / 2
        surplus = (2 * np.nan_to_num(self.auroc(weights)) - 1) * apart
        return _ratio(surplus, np.sqrt(apart * untied))


def _from_end(values: Weights) -> Weights:
    return np.cumsum(values[::-1], axis=0)[::-1]


def _ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = np.nan) -> np.ndarray:
    filled = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), empty)
    return np.divide(numerator, denominator, out=filled, where=denominator > 0)


def auroc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve; NaN where one class is absent.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
        0.875
    """
    return float(Ranking.of(scores, positive).auroc(once(len(scores)))[0])


def average_precision(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Average precision; NaN where no sample is positive."""
    return float(Ranking.of(scores, positive).average_precision(once(len(scores)))[0])


def average_precisions(scores: Float[np.ndarray, "s n"], positive: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " s"]:
    """`average_precision` of several scores of the same samples, at once; at least one sample is positive."""
    if np.isnan(scores).any():
        raise InputError("The scores parameter of average_precisions must be free of NaN. Leave undefined samples out.")
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked, hit = np.take_along_axis(scores, order, axis=1), positive[order]
    last = np.ones(scores.shape, bool)
    last[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    place = np.where(last, np.arange(scores.shape[1]), scores.shape[1])
    end = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]  # last place of everyone's ties
    found = np.take_along_axis(np.cumsum(hit, axis=1), end, axis=1)
    return np.asarray((hit * found / (end + 1)).sum(axis=1) / positive.sum())


def ranking_intervals(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], n_boot: int = N_BOOT, seed: int = 0
) -> dict[str, Interval]:
    """AUROC and average precision of one score with 95 % intervals, resampled within the two classes.

    Returns:
        `{"auroc": Interval, "average_precision": Interval}`, NaN where undefined.
    """
    ranking = Ranking.of(scores, positive)
    resamples = Resamples(np.asarray(positive), n_boot, seed)
    return {
        "auroc": bootstrap(ranking.auroc, resamples),
        "average_precision": bootstrap(ranking.average_precision, resamples),
    }
