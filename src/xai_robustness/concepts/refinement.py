"""Iterative label refinement: fit on the labels there are, score, propose the next samples to look at, repeat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pydantic import Field
from scipy import linalg

from xai_robustness.concepts.labelled import Table, blocks, stratified_folds
from xai_robustness.concepts.moments import Moments
from xai_robustness.concepts.samples import LatentsReader
from xai_robustness.concepts.separability import separation
from xai_robustness.concepts.suspicion import in_order
from xai_robustness.metrics.ranking import Ranking, average_precision
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError, Params

Strategy = Literal["highest", "uncertain", "mixed"]
CURVE_COLUMNS = ("strategy", "repeat", "labels", "found", "recall", "average_precision")
EFFORT_COLUMNS = ("strategy", "repeats", "reached", "labels_mean", "labels_low", "labels_high", "most_labels")
RANDOM = "random"
LOOKED_AT = 5.0
"""Samples that nobody looked at which one that was looked at outweighs."""


class EffortParams(Params):
    """How the label effort is measured; it is a report on controlled studies and changes no label."""

    repeats: int = Field(0, ge=0, description="repetitions with other seeds; 0: not measured")
    strategies: tuple[Strategy, ...] = Field(("highest", "uncertain", "mixed"), min_length=1)
    n_seeds: int = Field(4, ge=1, description="samples looked at before the first fit, half of the first suspects")
    batch: int = Field(4, ge=1, description="samples looked at between two fits")
    max_labels: int = Field(60, ge=2, description="labels given at most")
    target: float = Field(0.9, gt=0, le=1, description="average precision on test samples that counts as reached")


@dataclass(frozen=True, eq=False)
class Whitening:
    """Takes features to coordinates in which their covariance, shrunk halfway to a multiple of the identity, is one.

    There the difference of two means is Fisher's discriminant with that covariance. It comes from all samples, labelled
    or not and of every class, so that few labels have to tell two means apart and nothing else, and what differs
    between the classes counts little [Friedman1989].

    Attributes:
        mean: of the features, float64 (K,).
        factor: lower Cholesky factor of the shrunk covariance, float64 (K,K).
    """

    mean: Float[np.ndarray, " k"]
    factor: Float[np.ndarray, "k k"]

    @classmethod
    def of(cls, features: Table) -> "Whitening":
        """Of all samples of a layer, read block by block; InputError where one is not finite."""
        every: Moments | None = None
        for _, x in blocks(features):
            every = Moments.joined([*([every] if every else []), Moments.of(x)])
        assert every is not None
        if not np.isfinite(every.scatter).all():
            raise InputError(
                "The features parameter of Whitening.of must be finite. Got other values instead: check the "
                "classifier's training."
            )
        covariance = every.scatter / every.size
        middle = np.trace(covariance) / len(covariance) or 1.0
        return cls(every.mean, linalg.cholesky((covariance + middle * np.eye(len(covariance))) / 2, lower=True))

    def __call__(self, features: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Features (N,K) of the layer in these coordinates, float64."""
        centred = np.asarray(features, np.float64) - self.mean
        return linalg.solve_triangular(self.factor, centred.T, lower=True).T


def whitenings(latents: LatentsReader) -> dict[str, Whitening]:
    """Layer -> `Whitening` of the maximal activations of all train samples."""
    return {layer: Whitening.of(latents.stored("train", f"activations/{layer}/max")) for layer in latents.layers}


@dataclass
class Refiner:
    """Scores of all samples from the labels so far, by a discriminant in the layer that tells them apart best.

    The direction is the difference of the means of whitened features. Of each class the first suspect is believed of
    which two samples carry the artifact, and `min_purity` of those that were looked at: its other members count as
    carriers and all other samples as clean, each a fifth of one that was looked at. Without such a suspect the labels
    count alone; with fewer than two of a clean sample the unlabelled ones stand for that side. Layers are compared out
    of fold; a single sample cannot be held out: then the last layer is used. Without a carrier there is nothing to
    score by.

    Attributes:
        features: layer -> whitened features (N,K) of all samples.
        labels: row -> whether it carries the artifact.
        suspects: by class, the rows of the members of its suspects, the most suspicious first.
        min_purity: share of carriers among the members that were looked at from which a suspect is believed.
    """

    features: Mapping[str, Float[np.ndarray, "n k"]]
    labels: dict[int, bool] = field(default_factory=dict)
    suspects: Sequence[Sequence[Int[np.ndarray, " m"]]] = ()
    min_purity: float = 0.5

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(next(iter(self.features.values())))

    def scorer(self) -> Callable[[Mapping[str, np.ndarray]], np.ndarray] | None:
        """Whitened features by layer -> scores, positive where the artifact is expected; None without a carrier."""
        artifact, weight = self._sides()
        rows = np.flatnonzero(weight)
        artifact, weight = artifact[rows], weight[rows]
        if not artifact.any() or artifact.all():
            return None
        best = None
        several = min(artifact.sum(), (~artifact).sum()) > 1
        for layer in list(self.features) if several else [*self.features][-1:]:
            x = self.features[layer][rows]
            scores = held_out(x, artifact, weight) if several else x @ _direction(x, artifact, weight)
            precision = float(Ranking.of(scores, artifact).average_precision(weight[:, None])[0])
            reached = (round(precision, 9), separation(scores, artifact))
            if best is None or reached > best[0]:
                best = reached, layer, scores
        assert best is not None
        _, layer, scores = best
        direction = _direction(self.features[layer][rows], artifact, weight)
        threshold = best_threshold(scores, artifact, weight)
        return lambda features: features[layer] @ direction - threshold

    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Which samples count as carriers (N,), and how much each sample counts (N,)."""
        artifact, weight = np.zeros(self.size, bool), np.zeros(self.size)
        for own in self.suspects:
            believed = next((rows for rows in own if self._carries(rows)), None)
            if believed is not None:
                artifact[believed] = True
        if artifact.any() or len(self.labels) - sum(self.labels.values()) < 2:
            weight[:] = 1 / LOOKED_AT
        artifact[list(self.labels)] = list(self.labels.values())
        weight[list(self.labels)] = 1.0
        return artifact, weight

    def _carries(self, rows: Int[np.ndarray, " m"]) -> bool:
        seen = [self.labels[int(row)] for row in rows if int(row) in self.labels]
        return sum(seen) > 1 and sum(seen) >= self.min_purity * len(seen)

    def propose(self, scores: Float[np.ndarray, " n"], count: int, strategy: Strategy) -> Int[np.ndarray, " m"]:
        """The next rows to look at, the first ones first; fewer than `count` where fewer are left."""
        unseen = np.setdiff1d(np.arange(self.size), list(self.labels))
        highest = unseen[np.argsort(-scores[unseen], kind="stable")]
        uncertain = unseen[np.argsort(np.abs(scores[unseen]), kind="stable")]
        if strategy == "mixed":
            woven = np.stack([highest, uncertain], 1).ravel()
            return woven[np.sort(np.unique(woven, return_index=True)[1])][:count]
        return (highest if strategy == "highest" else uncertain)[:count]


def _direction(
    x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"], weight: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " k"]:
    """Difference of the weighted means, of length 1."""
    there, absent = weight * artifact, weight * ~artifact
    difference = there @ x / there.sum() - absent @ x / absent.sum()
    return difference / (np.linalg.norm(difference) or 1.0)


def held_out(
    x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"], weight: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Scores (N,) of samples by the direction of the folds that they are not in; two samples of a side at least."""
    scores = np.zeros(len(x))
    for train, test in stratified_folds(artifact).split(x, artifact):
        scores[test] = x[test] @ _direction(x[train], artifact[train], weight[train])
    return scores


def best_threshold(
    scores: Float[np.ndarray, " n"], artifact: Bool[np.ndarray, " n"], weight: Float[np.ndarray, " n"] | None = None
) -> float:
    """Threshold with the best balanced accuracy, in the middle between two scores; among equals the one nearest 0.

    Args:
        scores: (N,).
        artifact: which samples should lie above; both kinds must be there.
        weight: what each sample counts; None: all the same.
    """
    weight = np.ones(len(scores)) if weight is None else weight
    order, place = np.unique(scores, return_inverse=True)
    cuts = np.concatenate([[order[0] - 1], (order[1:] + order[:-1]) / 2, [order[-1] + 1]])
    below = [
        np.concatenate([[0.0], np.cumsum(np.bincount(place, weight * side, len(order)))]) / weight[side].sum()
        for side in (artifact, ~artifact)
    ]
    balanced = below[1] - below[0]
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    return float(cuts[best[np.abs(cuts[best]).argmin()]])


def suspect_rows(
    suspects: pd.DataFrame, members: pd.DataFrame, sample_ids: Int[np.ndarray, " n"]
) -> list[list[Int[np.ndarray, " m"]]]:
    """By class, the rows in `sample_ids` of the members of its suspects of several samples, as they are listed."""
    row, classes = pd.Series(np.arange(len(sample_ids)), sample_ids), suspects.set_index("name")["class"]
    found: dict[int, list[np.ndarray]] = {}
    for name, own in in_order(suspects, members).groupby("name", sort=False):
        found.setdefault(classes[name], []).append(row.reindex(own["sample_id"]).dropna().to_numpy(int))
    return list(found.values())


@dataclass(frozen=True, eq=False)
class ReportSet:
    """What the effort is judged on.

    Attributes:
        features: layer -> whitened features (M,K) of test samples.
        artifact: which of them carry the artifact (M,); both sides must be there.
    """

    features: Mapping[str, Float[np.ndarray, "m k"]]
    artifact: Bool[np.ndarray, " m"]


def label_curve(
    refiner: Refiner,
    artifact: Bool[np.ndarray, " n"],
    seeds: Sequence[int],
    test: ReportSet,
    params: EffortParams,
    strategy: str,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Recall and average precision against the number of labels given, for one strategy.

    Args:
        refiner: the samples that can be labelled (train), without a label; it takes them in.
        artifact: the oracle's answers for them.
        seeds: rows to look at first, the most suspicious first; `random` draws them instead.
        test: samples that the scores are judged on.
        params: batch size and most labels.
        strategy: highest, uncertain, mixed, or random, which looks at samples in random order.
        rng: order of the random strategy, and of samples looked at while none with the artifact is known.

    Returns:
        A row a fit: labels given, artifact samples found among them, their share of all (recall), and the average
        precision on the test samples (NaN before the first sample with the artifact).
    """
    rows = []
    shuffled = rng.permutation(len(artifact))
    waiting = list(shuffled if strategy == RANDOM else seeds)[: min(params.n_seeds, params.max_labels)]
    while waiting:
        refiner.labels.update({int(row): bool(artifact[row]) for row in waiting})
        scorer = refiner.scorer()
        precision = average_precision(scorer(test.features), test.artifact) if scorer else float("nan")
        found = sum(refiner.labels.values())
        rows.append((len(refiner.labels), found, found / max(int(artifact.sum()), 1), precision))
        count = min(params.batch, params.max_labels - len(refiner.labels))
        if strategy == RANDOM or scorer is None:
            waiting = [row for row in shuffled if int(row) not in refiner.labels][: max(count, 0)]
        else:
            scores = scorer(refiner.features)
            waiting = list(refiner.propose(scores, max(count, 0), strategy))  # type: ignore[arg-type]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS[2:]))


def label_effort(curves: pd.DataFrame, target: float, max_labels: int) -> pd.DataFrame:
    """Labels needed until the average precision reaches `target`, for each strategy, over the repeats.

    A repeat that never reaches it counts with `max_labels`, so that the mean is then a lower bound; `reached` says how
    many did. The interval is the range over the repeats.

    Args:
        curves: `CURVE_COLUMNS`.
        target: average precision.
        max_labels: labels given at most.

    Returns:
        `EFFORT_COLUMNS`.
    """
    rows = []
    for strategy, own in curves.groupby("strategy", sort=False):
        needed, reached = [], 0
        for _, curve in own.groupby("repeat"):
            there = curve.loc[curve["average_precision"] >= target, "labels"]
            reached += len(there) > 0
            needed.append(int(there.min()) if len(there) else max_labels)
        rows.append((strategy, len(needed), reached, float(np.mean(needed)), min(needed), max(needed), max_labels))
    return pd.DataFrame(rows, columns=list(EFFORT_COLUMNS))


def effort_curves(
    features: Mapping[str, Float[np.ndarray, "n k"]],
    artifact: Bool[np.ndarray, " n"],
    suspects: Sequence[Int[np.ndarray, " m"]],
    test: ReportSet,
    params: EffortParams,
    seed: int,
) -> pd.DataFrame:
    """`label_curve` of every strategy and of random labelling, `params.repeats` times.

    Half of the `n_seeds` samples with which a repeat starts are of the first 5 x `n_seeds` members of the suspects, the
    others of all other samples, since a pure suspect shows none without the artifact. Random labelling knows no
    suspect.

    Args:
        features: layer -> whitened features of the samples that can be labelled (train).
        artifact: the oracle's answers for them.
        suspects: rows of the members of suspects, the most suspicious first, the most typical members first.
        test: samples that the scores are judged on.
        params: see `EffortParams`.
        seed: the run's seed.

    Returns:
        `CURVE_COLUMNS`.

    Raises:
        InputError: test samples all with or all without the artifact, where average precision means nothing.
    """
    if len(np.unique(test.artifact)) < 2:
        raise InputError(
            "The test parameter of effort_curves must hold samples with and without the artifact. Got one "
            "kind. Choose a rate below 1 and above 0, or set sample_retrieval.effort.repeats to 0."
        )
    tables = []
    first = list(dict.fromkeys(int(row) for rows in suspects for row in rows))[: 5 * params.n_seeds]
    for repeat in range(params.repeats):
        for strategy in (*params.strategies, RANDOM):
            rng = numpy_rng(seed, "effort", repeat)
            seeds = _seeds(first, len(artifact), params.n_seeds, rng)
            refiner = Refiner(features, suspects=() if strategy == RANDOM else (suspects,))
            curve = label_curve(refiner, artifact, seeds, test, params, strategy, rng)
            tables.append(curve.assign(strategy=strategy, repeat=repeat))
    empty = pd.DataFrame(columns=list(CURVE_COLUMNS))
    return pd.concat(tables, ignore_index=True)[list(CURVE_COLUMNS)] if tables else empty


def _seeds(first: Sequence[int], n: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` of n rows, every other one of the first suspects."""
    suspected = rng.permutation(np.asarray(first, int))
    others = rng.permutation(np.setdiff1d(np.arange(n), suspected))
    both = [row for pair in zip(suspected, others) for row in pair]
    return [int(row) for row in [*both, *suspected[len(others) :], *others[len(suspected) :]]][:count]
