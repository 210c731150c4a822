"""Predictions and explanations of several models under corruptions, every corrupted image made once."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor
from xai_robustness.attribution.many import attribute_many
from xai_robustness.corruptions.base import corrupt
from xai_robustness.corruptions.tables import STANDARD
from xai_robustness.datasets.base import Batch, ImageSet
from xai_robustness.metrics.agreement import AGREEMENTS
from xai_robustness.metrics.agreement_maps import prepare
from xai_robustness.metrics.bootstrap import mean_interval
from xai_robustness.metrics.classification import compare_models
from xai_robustness.progress import progress
from xai_robustness.randomness import numpy_rng
from xai_robustness.robustness.params import SEVERITIES, RobustnessParams
from xai_robustness.types import METRIC_COLUMNS, Task

Models = Mapping[str, nn.Module]
Logits = Mapping[tuple[str, int], Mapping[str, np.ndarray]]


def versions(
    images: Float[Tensor, "b c h w"],
    sample_ids: Int64[np.ndarray, " b"],
    names: list[str],
    seed: int,
    table: str = STANDARD,
) -> Iterator[tuple[str, int, Float[Tensor, "b c h w"]]]:
    """Yield (corruption, severity, images), first the clean images as ("clean", 0); noise follows the sample ids."""
    ids = sample_ids.tolist()
    yield "clean", 0, images
    for name in names:
        for severity in SEVERITIES:
            yield name, severity, corrupt(name, images, ids, severity, seed, table)


def corruption_logits(models: Models, images: ImageSet, params: RobustnessParams, seed: int, device: str) -> Logits:
    """Logits of every model on the clean images and on each corruption and severity; each version is made once.

    Args:
        models: name -> classifier; moves to `device`, ends in evaluation mode.
        images: clean test images.
        params: corruptions, how many images and batch size.
        seed: seed of the run.
        device: where to compute.

    Returns:
        (corruption, severity) -> model -> (N,K); clean is ("clean", 0).
    """
    images = drawn(images, params.n_predicted, "predicted", seed)
    found: dict[tuple[str, int], dict[str, list[np.ndarray]]] = {}
    n_versions = 1 + len(params.chosen) * len(SEVERITIES)
    placed = {name: model.to(device).eval() for name, model in models.items()}
    with progress(len(images) * n_versions, "predict corrupted images") as bar, torch.inference_mode():
        for batch in images.batches(params.batch_size):
            ids = images.sample_ids[batch.rows]
            for name, severity, corrupted in versions(batch.images, ids, params.chosen, seed, params.table):
                for model_name, model in placed.items():
                    logits = model(corrupted.to(device)).cpu().numpy()
                    found.setdefault((name, severity), {}).setdefault(model_name, []).append(logits)
                bar.update(len(batch.rows))
    return {key: {m: np.concatenate(parts) for m, parts in by_model.items()} for key, by_model in found.items()}


def corruption_metrics(logits: Logits, labels: np.ndarray, task: Task, reference: str) -> pd.DataFrame:
    """Classification metrics under every corruption and severity.

    Args:
        logits: as `corruption_logits` gives them.
        labels: of the same samples.
        task: of the data set.
        reference: the model that differences are taken to.

    Returns:
        Columns model, corruption, severity (0: clean), METRIC_COLUMNS and the paired difference to `reference`.
    """
    tables = []
    for (name, severity), by_model in logits.items():
        condition = "clean" if severity == 0 else f"{name}_{severity}"
        table = compare_models(by_model, labels, task, reference, prefix=f"test/{condition}")
        tables.append(table.assign(corruption=name, severity=severity))
    table = pd.concat(tables, ignore_index=True)
    first = ["model", "corruption", "severity"]
    return table[first + [c for c in table.columns if c not in first]]


def agreement_metrics(
    models: Models, images: ImageSet, params: RobustnessParams, seed: int, device: str, layer: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Agreement of each method's explanations of clean and corrupted versions of the same images.

    Every version of an image is made once, and explained once for each model and method, for the class that the model
    predicts on the clean image; methods share what they can. Memory does not grow with the number of images.

    Returns:
        Columns model, method, corruption, severity and METRIC_COLUMNS; a metric for each of `params.agreements`, the
        same with `_kept` and `_changed` over the images whose prediction stayed and did not, and `prediction_kept`,
        the share that stayed; degenerate pairs of heatmaps are left out of `n`. And for each model and sample (columns
        model, sample_id) the mean of each agreement over methods, corruptions and severities.
    """
    chosen = drawn(images, params.n_explained, "explained", seed)
    placed = {name: model.to(device).eval() for name, model in models.items()}
    explainers = {
        name: {method: make_explainer(method, model, params, layer) for method in params.methods}
        for name, model in placed.items()
    }
    found: dict[Subject, dict[str, list[np.ndarray]]] = {}
    total = len(chosen) * (1 + len(params.chosen) * len(SEVERITIES)) * len(params.methods) * len(models)
    with progress(total, "explain corrupted images") as bar:
        for batch in chosen.batches(params.batch_size):
            for subject, values in _batch_agreement(explainers, batch, chosen, params, seed, device):
                bar.update(len(batch.rows))
                kept = found.setdefault(subject, {}) if subject is not None else {}
                for key, value in values.items():
                    kept.setdefault(key, []).append(value)
    joined = {subject: {k: np.concatenate(v) for k, v in values.items()} for subject, values in found.items()}
    rows = [row for subject in sorted(joined, key=list(joined).index) for row in _rows(subject, joined[subject], seed)]
    table = pd.DataFrame(rows, columns=["model", "method", "corruption", "severity", *METRIC_COLUMNS])
    return table, _sample_means(joined, params.agreements, chosen.sample_ids)


def _sample_means(
    joined: "Mapping[Subject, Mapping[str, np.ndarray]]", metrics: list[str], sample_ids: np.ndarray
) -> pd.DataFrame:
    tables = []
    for model in dict.fromkeys(subject[0] for subject in joined):
        means = {}
        for metric in metrics:
            values = np.stack([found[metric] for subject, found in joined.items() if subject[0] == model])
            defined = ~np.isnan(values)
            total = np.where(defined, values, 0).sum(axis=0)
            means[metric] = np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), np.nan)
        tables.append(pd.DataFrame({"model": model, "sample_id": sample_ids, **means}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["model", "sample_id", *metrics])


Subject = tuple[str, str, str, int]


def _batch_agreement(
    explainers: Mapping[str, Mapping[str, Attributor]],
    batch: Batch,
    images: ImageSet,
    params: RobustnessParams,
    seed: int,
    device: str,
) -> Iterator[tuple[Subject | None, dict[str, np.ndarray]]]:
    """Values of one batch for every model, version and method; nothing to compare for the clean version."""
    ids = images.sample_ids[batch.rows]
    clean: dict[tuple[str, str], Tensor] = {}
    targets: dict[str, Tensor] = {}
    for name, severity, corrupted in versions(batch.images, ids, params.chosen, seed, params.table):
        for model, methods in explainers.items():
            result = attribute_many(methods, corrupted.to(device), targets.get(model), params.batch_size)
            targets.setdefault(model, result.targets)
            kept = (result.logits.argmax(1) == targets[model]).double().cpu().numpy()
            for method, attribution in result.attributions.items():
                maps = prepare(attribution, params.maps)
                if severity == 0:
                    clean[model, method] = maps
                    yield None, {}
                    continue
                pairs = {key: AGREEMENTS[key](clean[model, method], maps) for key in params.agreements}
                values = {key: value.double().cpu().numpy() for key, value in pairs.items()}
                yield (model, method, name, severity), values | {"prediction_kept": kept}


def _rows(subject: Subject, values: Mapping[str, np.ndarray], seed: int) -> list[tuple[object, ...]]:
    kept = values["prediction_kept"] == 1
    rows = []
    for key, value in values.items():
        rows.append(_row(subject, key, value, seed))
        if key != "prediction_kept":
            rows.append(_row(subject, f"{key}_kept", value[kept], seed))
            rows.append(_row(subject, f"{key}_changed", value[~kept], seed))
    return rows


def drawn(images: ImageSet, n: int | None, name: str, seed: int) -> ImageSet:
    """`n` samples drawn by the stream `name`, in storage order; all of them for None or fewer than `n`."""
    if n is None or n >= len(images):
        return images
    return images.subset(np.sort(numpy_rng(seed, name).permutation(len(images))[:n]))


def make_explainer(name: str, model: nn.Module, params: RobustnessParams, layer: str) -> Attributor:
    """An attribution method by name, with the options that the parameters give it."""
    own: dict[str, dict[str, Any]] = {
        "integrated_gradients": {"n_steps": params.ig_steps},
        "grad_cam": {"layer": layer},
    }
    explainer: Attributor = ATTRIBUTORS.create(name, model, **own.get(name, {}))
    return explainer


def _row(subject: tuple[str, str, str, int], metric: str, values: np.ndarray, seed: int) -> tuple[object, ...]:
    n = int((~np.isnan(values)).sum())
    return (*subject, f"test/{subject[2]}_{subject[3]}/{metric}", *mean_interval(values, seed=seed), n)
