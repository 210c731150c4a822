"""Predictions and explanations of several models under corruptions, every corrupted image made once."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from pydantic import Field, field_validator
from torch import Tensor, nn

from xai_robustness.attribution.base import ATTRIBUTORS, Attributor
from xai_robustness.attribution.heatmap import positive, to_heatmap
from xai_robustness.corruptions.base import CORRUPTIONS, corrupt
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.agreement import AGREEMENTS
from xai_robustness.metrics.bootstrap import mean_interval
from xai_robustness.metrics.classification import compare_models
from xai_robustness.progress import progress
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import METRIC_COLUMNS, NEUTRAL, Params

SEVERITIES = (1, 2, 3, 4, 5)
Models = Mapping[str, nn.Module]


class RobustnessParams(Params):
    """What is measured under corruptions."""

    corruptions: list[str] = Field(
        ["gaussian_noise", "motion_blur", "contrast", "brightness", "jpeg_compression"], description="names"
    )
    methods: list[str] = Field(["saliency", "integrated_gradients", "grad_cam"], description="attribution methods")
    ig_steps: int = Field(50, ge=2, description="steps of Integrated Gradients")
    n_predicted: int | None = Field(None, ge=2, description="test images predicted, drawn by the seed; null: all")
    n_explained: int = Field(100, ge=2, description="test images whose explanations are compared, drawn by the seed")
    batch_size: Annotated[int, NEUTRAL] = Field(128, ge=1, description="images at once")

    @field_validator("corruptions")
    @classmethod
    def _known_corruptions(cls, names: list[str]) -> list[str]:
        return [CORRUPTIONS.checked(name) for name in names]

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: list[str]) -> list[str]:
        return [ATTRIBUTORS.checked(name) for name in names]


def versions(
    images: Float[Tensor, "b c h w"], sample_ids: Int64[np.ndarray, " b"], names: list[str], seed: int
) -> Iterator[tuple[str, int, Float[Tensor, "b c h w"]]]:
    """Yield (corruption, severity, images), first the clean images as ("clean", 0); noise follows the sample ids."""
    ids = sample_ids.tolist()
    yield "clean", 0, images
    for name in names:
        for severity in SEVERITIES:
            yield name, severity, corrupt(name, images, ids, severity, seed)


def corruption_metrics(
    models: Models, images: ImageSet, params: RobustnessParams, seed: int, device: str, reference: str
) -> pd.DataFrame:
    """Classification metrics of every model on the clean images and on each corruption and severity.

    Args:
        models: name -> classifier in evaluation mode.
        images: clean test images.
        params: corruptions and batch size.
        seed: seed of the run.
        device: where to compute.
        reference: the model that differences are taken to.

    Returns:
        Columns model, corruption, severity (0: clean), METRIC_COLUMNS and the paired difference to `reference`.
    """
    images = _drawn(images, params.n_predicted, "predicted", seed)
    found: dict[tuple[str, int], dict[str, list[np.ndarray]]] = {}
    n_versions = 1 + len(params.corruptions) * len(SEVERITIES)
    placed = {name: model.to(device).eval() for name, model in models.items()}
    with progress(len(images) * n_versions, "predict corrupted images") as bar, torch.inference_mode():
        for batch in images.batches(params.batch_size):
            ids = images.sample_ids[batch.rows]
            for name, severity, corrupted in versions(batch.images, ids, params.corruptions, seed):
                for model_name, model in placed.items():
                    logits = model(corrupted.to(device)).cpu().numpy()
                    found.setdefault((name, severity), {}).setdefault(model_name, []).append(logits)
                bar.update(len(batch.rows))
    tables = []
    for (name, severity), by_model in found.items():
        condition = "clean" if severity == 0 else f"{name}_{severity}"
        logits = {model: np.concatenate(parts) for model, parts in by_model.items()}
        table = compare_models(logits, images.labels, images.info.task, reference, prefix=f"test/{condition}")
        tables.append(table.assign(corruption=name, severity=severity))
    table = pd.concat(tables, ignore_index=True)
    first = ["model", "corruption", "severity"]
    return table[first + [c for c in table.columns if c not in first]]


def agreement_metrics(
    models: Models, images: ImageSet, params: RobustnessParams, seed: int, device: str, layer: str
) -> pd.DataFrame:
    """Agreement of each method's explanations of clean and corrupted versions of the same images.

    Every version of an image is explained once for each model and method, for the class that the model predicts on
    the clean image. Heatmaps are summed over channels and their negatives set to 0 before they are compared.

    Returns:
        Columns model, method, corruption, severity and METRIC_COLUMNS; one metric for each of AGREEMENTS and
        `prediction_kept`, the share of unchanged predictions. Degenerate pairs of heatmaps are left out of `n`.
    """
    chosen = _drawn(images, params.n_explained, "explained", seed)
    n = len(chosen)
    batch, ids = next(iter(chosen.batches(n))), chosen.sample_ids
    rows = []
    n_maps = n * (1 + len(params.corruptions) * len(SEVERITIES)) * len(params.methods) * len(models)
    with progress(n_maps, "explain corrupted images") as bar:
        for model_name, model in models.items():
            model = model.to(device).eval()
            with torch.no_grad():
                targets = model(batch.images.to(device)).argmax(1)
            explainers = {name: _explainer(name, model, params, layer) for name in params.methods}
            clean: dict[str, Tensor] = {}
            for name, severity, corrupted in versions(batch.images, ids, params.corruptions, seed):
                with torch.no_grad():
                    kept = (model(corrupted.to(device)).argmax(1) == targets).cpu().double().numpy()
                for method, explain in explainers.items():
                    heatmaps = positive(to_heatmap(explain(corrupted.to(device), targets))).cpu()
                    bar.update(n)
                    if severity == 0:
                        clean[method] = heatmaps
                        continue
                    subject = (model_name, method, name, severity)
                    values = {key: AGREEMENTS[key](clean[method], heatmaps) for key in AGREEMENTS}
                    rows += [_row(subject, key, v.double().numpy(), seed) for key, v in values.items()]
                    rows.append(_row(subject, "prediction_kept", kept, seed))
    return pd.DataFrame(rows, columns=["model", "method", "corruption", "severity", *METRIC_COLUMNS])


def _drawn(images: ImageSet, n: int | None, name: str, seed: int) -> ImageSet:
    if n is None or n >= len(images):
        return images
    return images.subset(np.sort(numpy_rng(seed, name).permutation(len(images))[:n]))


def _explainer(name: str, model: nn.Module, params: RobustnessParams, layer: str) -> Attributor:
    own: dict[str, dict[str, Any]] = {
        "integrated_gradients": {"n_steps": params.ig_steps},
        "grad_cam": {"layer": layer},
    }
    explainer: Attributor = ATTRIBUTORS.create(name, model, **own.get(name, {}))
    return explainer


def _row(subject: tuple[str, str, str, int], metric: str, values: np.ndarray, seed: int) -> tuple[object, ...]:
    n = int((~np.isnan(values)).sum())
    return (*subject, f"test/{subject[2]}_{subject[3]}/{metric}", *mean_interval(values, seed=seed), n)
