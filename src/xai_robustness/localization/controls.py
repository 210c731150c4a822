"""What a localization is to be compared with: a map without any content, masks of other samples, the plain gradient."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from torch import nn

from xai_robustness.attribution.gradients import Saliency
from xai_robustness.attribution.heatmap import to_heatmap
from xai_robustness.datasets.base import ImageSet
from xai_robustness.localization.masks import LocalizationParams, binarize
from xai_robustness.metrics.bootstrap import N_BOOT, Interval, Resamples, Statistic, bootstrap, mean_interval
from xai_robustness.metrics.localization import artifact_relevance, iou
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import METRIC_COLUMNS


def gradient_heatmaps(
    model: nn.Sequential, images: ImageSet, device: str, batch_size: int = 128
) -> Float[np.ndarray, "n h w"]:
    """Absolute input gradients of the label's logit (the first positive one's), summed over channels, (N,H,W)."""
    parts, saliency = [], Saliency(model.to(device), batch_size=batch_size)
    for batch in images.batches(batch_size):
        targets = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(1)
        parts.append(to_heatmap(saliency(batch.images.to(device), targets.to(device))).cpu().numpy())
    return np.concatenate(parts)


def against_area(
    group: str,
    heatmaps: Float[np.ndarray, "n h w"],
    masks: Bool[np.ndarray, "n h w"],
    truth: Bool[np.ndarray, "n h w"],
    seed: int,
    n_boot: int = N_BOOT,
) -> pd.DataFrame:
    """How many times the area baseline artifact relevance and IoU are: ratios of means over the same samples.

    Rows `artifact_relevance_times_area` and `iou_times_area`, with paired bootstrap intervals; the project's first bar
    is 3. NaN with n = 0 where the mask is the whole image.

    Args:
        group: `<split>/<condition>`.
        heatmaps: signed, of a CAV.
        masks: predicted.
        truth: true masks of the same samples.
        seed: the run's seed.
        n_boot: bootstrap replicates.

    Returns:
        METRIC_COLUMNS.
    """
    area = np.asarray(truth, float).mean((1, 2))
    rows = []
    for name, values in (("artifact_relevance", artifact_relevance(heatmaps, truth)), ("iou", iou(masks, truth))):
        known = ~np.isnan(values) & (area > 0)
        found = Interval(np.nan, np.nan, np.nan)
        if known.any():
            resamples = Resamples(np.zeros(int(known.sum())), n_boot, seed)
            found = bootstrap(_ratio_of_means(values[known], area[known]), resamples)
        rows.append((f"{group}/{name}_times_area", *found, int(known.sum())))
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS))


def _ratio_of_means(top: Float[np.ndarray, " n"], base: Float[np.ndarray, " n"]) -> Statistic:
    return lambda weights: (top @ weights) / (base @ weights)


def control_metrics(
    group: str,
    masks: Bool[np.ndarray, "n h w"],
    truth: Bool[np.ndarray, "n h w"],
    gradients: Float[np.ndarray, "n h w"],
    params: LocalizationParams,
    seed: int,
    n_boot: int = N_BOOT,
) -> pd.DataFrame:
    """Baselines of artifact relevance and IoU, each with its interval.

    `artifact_relevance_area` and `iou_area` are those of a map that is the same everywhere, which is the mask's share
    of the image; `iou_random_pairing` is the IoU with the predicted mask of another sample, which an artifact that
    always lies in one place reaches too; `artifact_relevance_gradient` and `iou_gradient` are those of the plain
    gradient.

    Args:
        group: `<split>/<condition>`.
        masks: predicted.
        truth: true masks of the same samples.
        gradients: of `gradient_heatmaps`.
        params: how the gradients are cut.
        seed: the run's seed.
        n_boot: bootstrap replicates.

    Returns:
        METRIC_COLUMNS.
    """
    uniform = np.ones(truth.shape)
    order = numpy_rng(seed, "localization", "pairing").permutation(len(truth))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)  # a cycle through a random order: no sample is its own partner
    values = {
        "artifact_relevance_area": artifact_relevance(uniform, truth),
        "iou_area": iou(uniform.astype(bool), truth),
        "iou_random_pairing": iou(masks[partner], truth),
        "artifact_relevance_gradient": artifact_relevance(gradients, truth),
        "iou_gradient": iou(binarize(gradients, params), truth),
    }
    rows = [
        (f"{group}/{name}", *mean_interval(v, n_boot, seed), int((~np.isnan(v)).sum())) for name, v in values.items()
    ]
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS))
