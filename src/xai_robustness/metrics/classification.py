"""Classification metrics with bootstrap intervals, for one model or many models on the same resamples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.sparse import csr_array
from scipy.special import logsumexp

from xai_robustness.metrics.bootstrap import N_BOOT, Interval, Resamples, Weights, once, percentile_interval
from xai_robustness.metrics.ranking import Ranking
from xai_robustness.registry import Registry
from xai_robustness.types import InputError, Task

DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high")
"""Columns that `compare_models` adds to the METRIC_COLUMNS: model minus reference, paired, with its 95 % interval."""


@dataclass(frozen=True)
class Predictions:
    """The logits of one model on labelled samples, prepared for any number of weightings.

    Attributes:
        logits: (N,K).
        labels: int (N,) in [0,K), or (N,K) in {0,1} for multi-label tasks.
        task: binary, multi-class, multi-label or ordinal.
    """

    logits: Float[np.ndarray, "n k"]
    labels: Shaped[np.ndarray, "n ..."]
    task: Task

    def __post_init__(self) -> None:
        _check(self.logits, self.labels, self.task)

    @property
    def multi_label(self) -> bool:
        """Whether each of the K outputs is a binary question of its own."""
        return self.task == "multi-label"

    @cached_property
    def finite(self) -> bool:
        """Whether the model gave finite logits; every metric of a model that did not is NaN."""
        return bool(np.isfinite(self.logits).all())

    @cached_property
    def tables(self) -> tuple[csr_array, int, int]:
        """The sparse (T*S*S, N) map from samples to confusion cells, T tables of S states each."""
        n, k = self.logits.shape
        if self.multi_label:
            truth, guess, states = self.labels, (self.logits > 0).astype(int), 2
        else:
            truth, guess, states = self.labels[:, None], self.logits.argmax(axis=1)[:, None], k
        count = truth.shape[1]
        cells = np.arange(count) * states**2 + truth * states + guess
        rows = np.repeat(np.arange(n), count)
        cells_by_rows = csr_array((np.ones(n * count), (cells.ravel(), rows)), shape=(count * states**2, n))
        return cells_by_rows, count, states

    @cached_property
    def rankings(self) -> list[Ranking]:
        """One ranking a class against the rest (one for two classes, one a label for multi-label tasks)."""
        logits = self.logits.astype(float)
        k = logits.shape[1]
        if self.multi_label:
            return [Ranking.of(logits[:, label], self.labels[:, label] == 1) for label in range(k)]
        classes = [1] if k == 2 else range(k)
        rest = [np.delete(logits, label, axis=1) for label in range(k)]
        return [Ranking.of(logits[:, c] - logsumexp(rest[c], axis=1), self.labels == c) for c in classes]


@dataclass(frozen=True)
class Weighted:
    """Predictions under b weightings of the samples: what a metric is computed from.

    Attributes:
        predictions: the predictions.
        weights: (N,b), the multiplicity of each sample in each replicate.
    """

    predictions: Predictions
    weights: Weights

    @cached_property
    def confusion(self) -> Float[np.ndarray, "b t s s"]:
        """Weighted confusion tables, true class in rows; T is 1 but for multi-label tasks, where it is K of 2 x 2."""
        matrix, count, states = self.predictions.tables
        return (matrix @ self.weights).T.reshape(-1, count, states, states)


Metric = Callable[[Weighted], Float[np.ndarray, " b"]]
METRICS: Registry[Metric] = Registry("metric")


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean_defined(values: np.ndarray, axis: int) -> np.ndarray:
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis))


@METRICS.register("accuracy")
def accuracy(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """Share of right answers in [0,1]; for multi-label tasks the mean over labels, each at probability 0.5."""
    tables = weighted.confusion
    return _ratio(np.einsum("btss->bt", tables), tables.sum(axis=(2, 3))).mean(axis=1)


@METRICS.register("balanced_accuracy")
def balanced_accuracy(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """Mean recall over the classes present, in [0,1] [Brodersen2010]; the mean over labels for multi-label tasks."""
    tables = weighted.confusion
    recall = _ratio(np.einsum("btss->bts", tables), tables.sum(axis=3))
    return _mean_defined(_mean_defined(recall, axis=2), axis=1)


@METRICS.register("macro_f1")
def macro_f1(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """Mean F1 in [0,1] over the classes that are present or predicted; for multi-label tasks over the labels."""
    tables = weighted.confusion
    hits = np.einsum("btss->bts", tables)
    f1 = _ratio(2 * hits, tables.sum(axis=3) + tables.sum(axis=2))
    return _mean_defined(f1[:, :, 1] if weighted.predictions.multi_label else f1[:, 0], axis=1)


@METRICS.register("auroc")
def auroc(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """Area under the ROC curve in [0,1], mean of one class against the rest (of labels for multi-label tasks).

    A class without positives or without negatives has no curve and is left out; with none left the value is NaN.
    """
    areas = np.stack([ranking.auroc(weighted.weights) for ranking in weighted.predictions.rankings])
    return _mean_defined(areas, axis=0)


@METRICS.register("false_positive_rate")
def false_positive_rate(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """Share of the samples of other classes that are given a class, in [0,1], mean over classes (labels)."""
    return _mean_defined(_false_positives(weighted), axis=1)


@METRICS.register("largest_false_positive_rate")
def largest_false_positive_rate(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """The same of the class (label) where it is largest: a shortcut drives samples into the class it stands for."""
    rates = _false_positives(weighted)
    return np.where(np.isnan(rates).all(1), np.nan, np.nan_to_num(rates, nan=-1.0).max(1))


def _false_positives(weighted: Weighted) -> np.ndarray:
    """(B,K) false positive rates; NaN where every sample is of the class."""
    tables = weighted.confusion
    if weighted.predictions.multi_label:
        return _ratio(tables[:, :, 0, 1], tables[:, :, 0].sum(2))
    table = tables[:, 0]
    given = table.sum(1)
    hits = np.einsum("bss->bs", table)
    return _ratio(given - hits, table.sum((1, 2))[:, None] - table.sum(2))


@METRICS.register("worst_recall")
def worst_recall(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """Recall of the class where it is smallest, in [0,1]; of the labels' positives and negatives for multi-label."""
    tables = weighted.confusion
    recall = _ratio(np.einsum("btss->bts", tables), tables.sum(axis=3)).reshape(len(tables), -1)
    return np.where(np.isnan(recall).all(1), np.nan, np.nan_to_num(recall, nan=2.0).min(1))


@METRICS.register("quadratic_kappa")
def quadratic_kappa(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """Cohen's kappa with quadratic weights, at most 1 [Cohen1968]; NaN where truth and answers are one same class."""
    tables = weighted.confusion[:, 0]
    cost = _distance(tables.shape[-1]) ** 2
    expected = np.einsum("bi,bj->bij", tables.sum(axis=2), tables.sum(axis=1))
    total = tables.sum(axis=(1, 2))
    return 1 - _ratio((tables * cost).sum(axis=(1, 2)) * total, (expected * cost).sum(axis=(1, 2)))


@METRICS.register("mae")
def mean_absolute_error(weighted: Weighted) -> Float[np.ndarray, " b"]:
    """Mean absolute distance between true and predicted class, in grades; lower is better."""
    tables = weighted.confusion[:, 0]
    return _ratio((tables * _distance(tables.shape[-1])).sum(axis=(1, 2)), tables.sum(axis=(1, 2)))


def _distance(states: int) -> Int[np.ndarray, "s s"]:
    return np.abs(np.subtract.outer(np.arange(states), np.arange(states)))


def metric_names(task: Task) -> tuple[str, ...]:
    """The metrics reported for a task."""
    names = ("accuracy", "balanced_accuracy", "auroc", "macro_f1")
    return (*names, "quadratic_kappa", "mae") if task == "ordinal" else names


def compare_models(
    logits: Mapping[str, Float[np.ndarray, "n k"]],
    labels: Shaped[np.ndarray, "n ..."],
    task: Task,
    reference: str | None = None,
    *,
    metrics: Sequence[str] | None = None,
    prefix: str = "",
    subject: str = "model",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics of several models on one set of samples, all on the same resamples, stratified by class.

    The resamples are drawn once and each model is evaluated once a resample, the reference too, however many models
    are compared to it. Multi-label samples are resampled without strata.

    Args:
        logits: model name -> (N,K).
        labels: int (N,) in [0,K), or (N,K) in {0,1} for multi-label tasks.
        task: the task of the data set.
        reference: the model that the others are compared to; None gives no differences.
        metrics: names of `METRICS`; None gives those of the task.
        prefix: `{split}/{condition}`, put before each metric's name.
        subject: name of the column that holds the model's name.
        n_boot: number of replicates.
        seed: the run's seed.

    Returns:
        One row a model and metric: `subject`, METRIC_COLUMNS and, with a reference, DIFFERENCE_COLUMNS. NaN means
        undefined: a class is absent (AUROC), or the model gave logits that are not finite.
    """
    if reference is not None and reference not in logits:
        raise InputError(
            f"The reference parameter of compare_models must be one of {list(logits)}. Got {reference!r} instead."
        )
    names = metric_names(task) if metrics is None else tuple(metrics)
    predictions = {name: Predictions(np.asarray(values), np.asarray(labels), task) for name, values in logits.items()}
    values, drawn = _evaluate(predictions, names, Resamples(_strata(np.asarray(labels), task), n_boot, seed))
    rows: list[dict[str, Any]] = []
    for model in predictions:
        for metric in names:
            row: dict[str, Any] = {subject: model, "metric": f"{prefix}/{metric}" if prefix else metric}
            interval = percentile_interval(values[model, metric], drawn[model, metric])
            row |= {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "n": len(labels)}
            if reference is not None:
                gain = values[model, metric] - values[reference, metric]
                spread = drawn[model, metric] - drawn[reference, metric]
                row |= zip(DIFFERENCE_COLUMNS, percentile_interval(gain, spread))
            rows.append(row)
    return pd.DataFrame(rows)


def classification_metrics(
    logits: Float[np.ndarray, "n k"],
    labels: Shaped[np.ndarray, "n ..."],
    task: Task,
    prefix: str = "",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics of one model with 95 % intervals, one row a metric with METRIC_COLUMNS; see `compare_models`.

    Example:
        >>> table = classification_metrics(np.eye(2), np.array([0, 1]), "binary", "test/clean")
        >>> table.metric[1], float(table.value[1])
        ('test/clean/balanced_accuracy', 1.0)
    """
    table = compare_models({"model": logits}, labels, task, prefix=prefix, n_boot=n_boot, seed=seed)
    return table.drop(columns="model")


def paired_difference(
    logits_a: Float[np.ndarray, "n k"],
    logits_b: Float[np.ndarray, "n k"],
    labels: Shaped[np.ndarray, "n ..."],
    task: Task,
    metric: str,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> Interval:
    """Metric of model a minus metric of model b with its 95 % interval, both on the same resamples."""
    both = {"a": logits_a, "b": logits_b}
    table = compare_models(both, labels, task, "b", metrics=[metric], n_boot=n_boot, seed=seed)
    return Interval(*table[list(DIFFERENCE_COLUMNS)].to_numpy(dtype=float)[0].tolist())


Values = dict[tuple[str, str], Any]


def _evaluate(
    predictions: Mapping[str, Predictions], names: Sequence[str], resamples: Resamples
) -> tuple[Values, Values]:
    """Point estimates and replicates by (model, metric); each block of resamples is drawn once for all models."""
    whole = _block(predictions, names, once(len(resamples.strata)))
    blocks = [_block(predictions, names, weights) for weights in resamples.blocks()]
    values = {key: float(value[0]) for key, value in whole.items()}
    return values, {key: np.concatenate([block[key] for block in blocks]) for key in whole}


def _block(predictions: Mapping[str, Predictions], names: Sequence[str], weights: Weights) -> Values:
    undefined = np.full(weights.shape[1], np.nan)
    found: Values = {}
    for model, prediction in predictions.items():
        weighted = Weighted(prediction, weights)
        found |= {(model, name): METRICS[name](weighted) if prediction.finite else undefined for name in names}
    return found


def _strata(labels: np.ndarray, task: Task) -> np.ndarray:
    return np.zeros(len(labels), dtype=int) if task == "multi-label" else labels


def _check(logits: np.ndarray, labels: np.ndarray, task: Task) -> None:
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] < (1 if task == "multi-label" else 2):
        raise InputError(
            "The logits parameter of Predictions must be of shape (N,K) with at least one sample and two classes. "
            f"Got shape {logits.shape} instead."
        )
    expected, states = (logits.shape, 2) if task == "multi-label" else (logits.shape[:1], logits.shape[1])
    if labels.shape != expected or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"The labels parameter of Predictions must be integers of shape {expected} for a {task} task. "
            f"Got {labels.dtype} of shape {labels.shape} instead."
        )
    if labels.min() < 0 or labels.max() >= states:
        raise InputError(
            f"The labels parameter of Predictions must be in 0..{states - 1}. "
            f"Got {labels.min()}..{labels.max()} instead."
        )
