"""Nodes of localization."""

import numpy as np
import pandas as pd
import zarr
from matplotlib.figure import Figure

from xai_robustness.chunks import ArraysJob
from xai_robustness.concepts.cav import Cav, Cavs
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.figures.localization import rows_figure
from xai_robustness.localization.controls import against_area, control_metrics, gradient_heatmaps
from xai_robustness.localization.export import PngJob
from xai_robustness.localization.localize import (
    binarization_job,
    cavs_of,
    localization_job,
    localization_metrics,
    localize_images,
)
from xai_robustness.localization.masks import LocalizationParams, binarize
from xai_robustness.models.saved import Classifier
from xai_robustness.types import METRIC_COLUMNS

Sets = dict[str, ImageSet]
GROUP = "train/biased"
SHOWN = 8


def _chosen(cavs: Cavs, chosen_cav: dict[str, str]) -> Cav | None:
    return cavs.find(chosen_cav["layer"], chosen_cav["kind"]) if chosen_cav else None


def localize_artifacts(
    classifier: Classifier,
    images_fit: Sets,
    cavs: Cavs,
    chosen_cav: dict[str, str],
    artifact_labels: pd.DataFrame,
    params: LocalizationParams,
    device: str,
) -> ArraysJob:
    """Heatmaps of the training samples that are labelled as carrying the artifact."""
    labelled = artifact_labels.sample_id[artifact_labels.artifact.astype(bool) & (artifact_labels.split == "train")]
    rows = np.flatnonzero(np.isin(images_fit[GROUP].sample_ids, labelled.to_numpy()))
    used = cavs_of(cavs, _chosen(cavs, chosen_cav), params)
    return localization_job(classifier.model, {GROUP: images_fit[GROUP]}, {GROUP: rows}, used, params, device)


def binarize_heatmaps(artifact_heatmaps: zarr.Group, params: LocalizationParams) -> ArraysJob:
    """Masks from heatmaps."""
    return binarization_job(artifact_heatmaps, params)


def score_localization(
    classifier: Classifier,
    images_report: Sets,
    cavs: Cavs,
    chosen_cav: dict[str, str],
    params: LocalizationParams,
    seed: int,
    device: str,
) -> tuple[pd.DataFrame, Figure]:
    """Artifact relevance and IoU on attacked test images, and a picture of some."""
    attacked = images_report["test/attacked"]
    used = cavs_of(cavs, _chosen(cavs, chosen_cav), params)
    if not used:
        empty = np.zeros((0, *attacked.image_shape[1:]))
        return pd.DataFrame(columns=list(METRIC_COLUMNS)), rows_figure(np.zeros((0, 1, 1, 3)), None, empty, empty, [])
    found = localize_images(classifier.model, attacked, used, params, device)
    truth = np.asarray(attacked.masks, bool)
    rows = np.linspace(0, len(attacked) - 1, SHOWN).astype(int)
    images = take(attacked.images, rows)
    predicted = binarize(found, params)
    titles = attacked.info.names_of(attacked.labels[rows])
    table = localization_metrics("test/attacked", found, predicted, truth, seed)
    if params.controls:
        gradients = gradient_heatmaps(classifier.model, attacked, device)
        controls = control_metrics("test/attacked", predicted, truth, gradients, params, seed)
        ratios = against_area("test/attacked", found, predicted, truth, seed)
        table = pd.concat([table, controls, ratios], ignore_index=True)
    return table, rows_figure(images, truth[rows], found[rows], predicted[rows], titles)


def export_images(artifact_heatmaps: zarr.Group, predicted_masks: zarr.Group, params: LocalizationParams) -> PngJob:
    """Write heatmaps and masks as PNG files, if the parameters ask for it."""
    return PngJob(artifact_heatmaps, predicted_masks, params.export)
