"""The one table of a study: does removing a shortcut change robustness, and do explanations stay stable?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from xai_robustness.metrics.bootstrap import Resamples, Statistic, once, percentile_interval, replicates
from xai_robustness.metrics.classification import DIFFERENCE_COLUMNS, METRICS, Predictions, Weighted
from xai_robustness.robustness.baselines import ALEXNET, ALEXNET_CLEAN
from xai_robustness.robustness.corruption import Logits
from xai_robustness.types import METRIC_COLUMNS, Task

TABLE_COLUMNS = ("model", *METRIC_COLUMNS, *DIFFERENCE_COLUMNS, "p_value")
Row = tuple[object, ...]


def accuracy_rows(
    logits: Logits,
    attacked: Mapping[str, np.ndarray],
    labels: np.ndarray,
    task: Task,
    reference: str,
    table: str,
    seed: int = 0,
) -> pd.DataFrame:
    """Balanced accuracy clean, attacked by the artifact and under corruptions; BE and rBE where they are defined.

    Every value and every difference is computed on the same resamples of the samples, stratified by class.

    Args:
        logits: (corruption, severity) -> model -> (N,K), with ("clean", 0).
        attacked: model -> (N,K) on the same samples, each with the artifact.
        labels: of the samples.
        task: of the data set.
        reference: the model that differences are taken to.
        table: the severity table; a data set of MedMNIST-C defines the balanced errors relative to AlexNet
            [DiSalvo2024], whose numbers hold for 224 pixels.
        seed: seed of the run.

    Returns:
        One row a model and metric: `test/clean/balanced_accuracy`, `test/attacked/balanced_accuracy`,
        `test/corrupted/balanced_accuracy` (mean over corruptions and severities), `test/corrupted/be`, `.../rbe`;
        value, 95 % interval, n, paired difference to the reference with its interval and two-sided p-value.
    """
    strata = labels if labels.ndim == 1 else np.zeros(len(labels), dtype=int)
    resamples = Resamples(strata, seed=seed)
    conditions = {**logits, ("attacked", 0): attacked}
    point: dict[str, dict[str, float]] = {}
    spread: dict[str, dict[str, np.ndarray]] = {}
    for model in attacked:
        made = {key: Predictions(by_model[model], labels, task) for key, by_model in conditions.items()}
        single = _columns({key: _score(p)(once(len(labels))) for key, p in made.items()}, table)
        drawn = _columns({key: replicates(_score(p), resamples) for key, p in made.items()}, table)
        point[model] = {name: float(value[0]) for name, value in single.items()}
        spread[model] = drawn
    return _table(point, spread, reference, {model: len(labels) for model in attacked})


def sample_rows(values: Mapping[str, np.ndarray], metric: str, reference: str, seed: int = 0) -> pd.DataFrame:
    """Mean of per-sample values of each model, paired by sample; NaN leaves a sample out for every model.

    Args:
        values: model -> (N,) on the same samples.
        metric: name of the row.
        reference: the model that differences are taken to.
        seed: seed of the run.
    """
    defined = ~np.isnan(np.stack(list(values.values()))).any(axis=0)
    if not defined.any():
        return pd.DataFrame(columns=list(TABLE_COLUMNS))
    kept = {model: value[defined] for model, value in values.items()}
    n = int(defined.sum())
    resamples = Resamples(np.zeros(n), seed=seed)
    point = {model: {metric: float(value.mean())} for model, value in kept.items()}
    spread = {m: {metric: replicates(lambda w, v=v: v @ w / n, resamples)} for m, v in kept.items()}  # type: ignore[misc]
    return _table(point, spread, reference, dict.fromkeys(kept, n))


def _score(predictions: Predictions) -> Statistic:
    return lambda weights: METRICS["balanced_accuracy"](Weighted(predictions, weights))


def _columns(scores: Mapping[tuple[str, int], np.ndarray], table: str) -> dict[str, np.ndarray]:
    """The table's columns from balanced accuracies by condition; any number of replicates."""
    clean = scores["clean", 0]
    names = dict.fromkeys(name for name, severity in scores if severity > 0)
    means = {c: np.mean([v for (name, _), v in scores.items() if name == c], axis=0) for c in names}
    columns = {"test/clean/balanced_accuracy": clean, "test/attacked/balanced_accuracy": scores["attacked", 0]}
    if means:
        columns["test/corrupted/balanced_accuracy"] = np.mean(list(means.values()), axis=0)
    known = [name for name in names if name in ALEXNET.get(table, {})]
    if known:
        columns["test/corrupted/be"], columns["test/corrupted/rbe"] = balanced_errors(
            1 - clean, {name: 1 - means[name] for name in known}, table
        )
    return columns


def balanced_errors(clean: np.ndarray, errors: Mapping[str, np.ndarray], table: str) -> tuple[np.ndarray, np.ndarray]:
    """BE and rBE: errors under corruption over AlexNet's, and what corruption adds over what it adds to AlexNet.

    Args:
        clean: 1 - balanced accuracy on clean images.
        errors: corruption -> 1 - balanced accuracy, mean over severities.
        table: the data set.

    Returns:
        Means over the corruptions; 1 is as good as AlexNet, lower is better. rBE may be negative.

    Example:
        >>> be, rbe = balanced_errors(np.array(0.2), {"pixelate": np.array(0.3124)}, "octmnist")
        >>> round(float(be), 3), round(float(rbe), 3)
        (1.0, 1.018)
    """
    reference = ALEXNET[table]
    be = np.mean([error / reference[name] for name, error in errors.items()], axis=0)
    gains = [(error - clean) / (reference[name] - ALEXNET_CLEAN[table]) for name, error in errors.items()]
    return be, np.mean(gains, axis=0)


def _table(
    point: Mapping[str, Mapping[str, float]],
    spread: Mapping[str, Mapping[str, np.ndarray]],
    reference: str,
    n: Mapping[str, int],
) -> pd.DataFrame:
    rows: list[Row] = []
    for model, values in point.items():
        for metric, value in values.items():
            gain = value - point[reference][metric]
            gains = spread[model][metric] - spread[reference][metric]
            rows.append(
                (
                    model,
                    metric,
                    *percentile_interval(value, spread[model][metric]),
                    n[model],
                    *percentile_interval(gain, gains),
                    _p_value(gains) if model != reference else np.nan,
                )
            )
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def _p_value(gains: np.ndarray) -> float:
    """Two-sided, from the share of resamples on the other side of zero, never below 2 / (replicates + 1)."""
    defined = gains[~np.isnan(gains)]
    if len(defined) == 0:
        return float("nan")
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(defined) + 1)))
