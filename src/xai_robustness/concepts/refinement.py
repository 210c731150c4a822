"""Iterative label refinement: fit on the labels there are, score, propose the next samples to look at, repeat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pydantic import Field

from xai_robustness.concepts.cav import fit_cav
from xai_robustness.concepts.directions import mean_direction
from xai_robustness.concepts.labelled import Labelled, stratified_folds
from xai_robustness.concepts.separability import separation
from xai_robustness.metrics.ranking import average_precision
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError, Params

Strategy = Literal["highest", "uncertain", "mixed"]
CURVE_COLUMNS = ("strategy", "repeat", "labels", "found", "recall", "average_precision")
EFFORT_COLUMNS = ("strategy", "repeats", "reached", "labels_mean", "labels_low", "labels_high", "most_labels")
RANDOM = "random"


class EffortParams(Params):
    """How the label effort is measured; it is a report on controlled studies and changes no label."""

    repeats: int = Field(0, ge=0, description="repetitions with other seeds; 0: not measured")
    strategies: tuple[Strategy, ...] = Field(("highest", "uncertain", "mixed"), min_length=1)
    n_seeds: int = Field(4, ge=1, description="samples looked at before the first fit, half of the first suspects")
    batch: int = Field(4, ge=1, description="samples looked at between two fits")
    max_labels: int = Field(60, ge=2, description="labels given at most")
    target: float = Field(0.9, gt=0, le=1, description="average precision on test samples that counts as reached")


@dataclass
class Refiner:
    """Scores of all samples from the labels so far, by a ridge CAV in the layer that tells them apart best out of fold.

    With fewer than two labels of a sample without the artifact the unlabelled ones stand for that side. A single label
    of one that carries it cannot be held out: then the last layer is used. Without any there is nothing to score by.

    Attributes:
        features: layer -> pooled activations (N,K) of all samples.
        labels: row -> whether it carries the artifact.
    """

    features: Mapping[str, Float[np.ndarray, "n k"]]
    labels: dict[int, bool] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(next(iter(self.features.values())))

    def scorer(self) -> Callable[[Mapping[str, np.ndarray]], np.ndarray] | None:
        """Features by layer -> scores, positive where the artifact is expected; None without a positive label."""
        rows, artifact = self._fit_rows()
        if artifact is None:
            return None
        best = None
        layers = list(self.features)
        for layer in layers if sum(self.labels.values()) > 1 else layers[-1:]:
            scores = out_of_fold(self.features[layer][rows], artifact, layer)
            reached = (round(average_precision(scores, artifact), 9), separation(scores, artifact))
            if best is None or reached > best[0]:
                best = reached, layer, scores
        assert best is not None
        _, layer, scores = best
        cav = fit_cav(self.features[layer][rows], artifact, "ridge", layer)
        threshold = best_threshold(scores, artifact)
        return lambda features: cav.scores(features[layer]) - threshold

    def _fit_rows(self) -> tuple[np.ndarray, np.ndarray | None]:
        rows = np.array(sorted(self.labels), int)
        artifact = np.array([self.labels[int(row)] for row in rows], bool)
        if not artifact.any():
            return rows, None
        others = np.setdiff1d(np.arange(self.size), rows)
        if artifact.sum() < 2:  # a single positive: twice, so that there is a spread to speak of
            positive = rows[artifact]
            rows, artifact = np.concatenate([rows, positive]), np.concatenate([artifact, [True]])
        if (~artifact).sum() < 2:
            rows, artifact = np.concatenate([rows, others]), np.concatenate([artifact, np.zeros(len(others), bool)])
        return rows, artifact if (~artifact).sum() >= 2 else None

    def propose(self, scores: Float[np.ndarray, " n"], count: int, strategy: Strategy) -> Int[np.ndarray, " m"]:
        """The next rows to look at, the first ones first; fewer than `count` where fewer are left."""
        unseen = np.setdiff1d(np.arange(self.size), list(self.labels))
        highest = unseen[np.argsort(-scores[unseen], kind="stable")]
        uncertain = unseen[np.argsort(np.abs(scores[unseen]), kind="stable")]
        if strategy == "mixed":
            woven = np.stack([highest, uncertain], 1).ravel()
            return woven[np.sort(np.unique(woven, return_index=True)[1])][:count]
        return (highest if strategy == "highest" else uncertain)[:count]


def out_of_fold(features: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"], layer: str) -> np.ndarray:
    """Scores (N,) of folds that took no part in the fit, in units of the features.

    By ridge; where a side has two labels, of which a fold leaves one, by the difference of the means. In sample every
    layer of more channels than labels would tell them apart. Two labels of a side at least.
    """
    x, scores = np.asarray(features, np.float64), np.zeros(len(artifact))
    few = min(artifact.sum(), (~artifact).sum()) < 3
    for train, test in stratified_folds(artifact).split(x, artifact):
        if few:
            direction, offset, _ = mean_direction(Labelled(x[train], artifact[train], layer))
            scores[test] = (x[test] @ direction + offset) / (np.linalg.norm(direction) or 1.0)
        else:
            scores[test] = fit_cav(x[train], artifact[train], "ridge", layer).scores(x[test])
    return scores


def best_threshold(scores: Float[np.ndarray, " n"], artifact: Bool[np.ndarray, " n"]) -> float:
    """Threshold with the best balanced accuracy, in the middle between two scores; among equals the one nearest 0."""
    order = np.unique(scores)
    cuts = np.concatenate([[order[0] - 1], (order[1:] + order[:-1]) / 2, [order[-1] + 1]])
    above = scores[None, :] > cuts[:, None]
    balanced = above[:, artifact].mean(1) + (~above[:, ~artifact]).mean(1)
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    return float(cuts[best[np.abs(cuts[best]).argmin()]])


def label_curve(
    features: Mapping[str, Float[np.ndarray, "n k"]],
    artifact: Bool[np.ndarray, " n"],
    seeds: Sequence[int],
    test_features: Mapping[str, Float[np.ndarray, "m k"]],
    test_artifact: Bool[np.ndarray, " m"],
    params: EffortParams,
    strategy: str,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Recall and average precision against the number of labels given, for one strategy.

    Args:
        features: layer -> features of the samples that can be labelled (train).
        artifact: the oracle's answers for them.
        seeds: rows to look at first, the most suspicious first; `random` draws them instead.
        test_features: layer -> features of the samples that the scores are judged on.
        test_artifact: the truth for them; both sides must be there.
        params: batch size and most labels.
        strategy: highest, uncertain, mixed, or random, which looks at samples in random order.
        rng: order of the random strategy, and of samples looked at while none with the artifact is known.

    Returns:
        A row a fit: labels given, artifact samples found among them, their share of all (recall), and the average
        precision on the test samples (NaN before the first sample with the artifact).
    """
    refiner, rows = Refiner(features), []
    shuffled = rng.permutation(len(artifact))
    waiting = list(shuffled if strategy == RANDOM else seeds)[: params.n_seeds]
    while waiting:
        refiner.labels.update({int(row): bool(artifact[row]) for row in waiting})
        scorer = refiner.scorer()
        precision = average_precision(scorer(test_features), test_artifact) if scorer else float("nan")
        found = sum(refiner.labels.values())
        rows.append((len(refiner.labels), found, found / max(int(artifact.sum()), 1), precision))
        count = min(params.batch, params.max_labels - len(refiner.labels))
        if strategy == RANDOM or scorer is None:
            waiting = [row for row in shuffled if int(row) not in refiner.labels][: max(count, 0)]
        else:
            waiting = list(refiner.propose(scorer(features), max(count, 0), strategy))  # type: ignore[arg-type]
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
    order: Sequence[int],
    test_features: Mapping[str, Float[np.ndarray, "m k"]],
    test_artifact: Bool[np.ndarray, " m"],
    params: EffortParams,
    seed: int,
) -> pd.DataFrame:
    """`label_curve` of every strategy and of random labelling, `params.repeats` times.

    Args:
        features: as `label_curve`.
        artifact: as `label_curve`.
        order: rows by suspicion, the most typical members of the first suspects first; half of the `n_seeds` with which
            a repeat starts are of the first 5 x `n_seeds`, the others of all other rows, since a pure suspect shows no
            sample without the artifact.
        test_features: as `label_curve`.
        test_artifact: as `label_curve`.
        params: see `EffortParams`.
        seed: the run's seed.

    Returns:
        `CURVE_COLUMNS`.

    Raises:
        InputError: test samples all with or all without the artifact, where average precision means nothing.
    """
    if len(np.unique(test_artifact)) < 2:
        raise InputError(
            "The test_artifact parameter of effort_curves must hold samples with and without the artifact. Got one "
            "kind. Choose a rate below 1 and above 0, or set sample_retrieval.effort.repeats to 0."
        )
    tables = []
    for repeat in range(params.repeats):
        for strategy in (*params.strategies, RANDOM):
            rng = numpy_rng(seed, "effort", repeat)
            seeds = _seeds(order[: 5 * params.n_seeds], len(artifact), params.n_seeds, rng)
            arguments = (features, artifact, seeds, test_features, test_artifact, params, strategy, rng)
            tables.append(label_curve(*arguments).assign(strategy=strategy, repeat=repeat))
    empty = pd.DataFrame(columns=list(CURVE_COLUMNS))
    return pd.concat(tables, ignore_index=True)[list(CURVE_COLUMNS)] if tables else empty


def _seeds(first: Sequence[int], n: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` of n rows, every other one of the first suspects."""
    suspected = rng.permutation(np.asarray(first, int))
    others = rng.permutation(np.setdiff1d(np.arange(n), suspected))
    both = [row for pair in zip(suspected, others) for row in pair]
    return [int(row) for row in [*both, *suspected[len(others) :], *others[len(suspected) :]]][:count]
