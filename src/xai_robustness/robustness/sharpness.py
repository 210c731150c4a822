"""Sharpness of a model's explanations over a set of images."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from xai_robustness.attribution.base import ATTRIBUTORS
from xai_robustness.attribution.heatmap import to_heatmap
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.metrics.bootstrap import mean_interval
from xai_robustness.metrics.lesions import colour_agreement
from xai_robustness.metrics.sharpness import mask_energy, sharpness
from xai_robustness.types import METRIC_COLUMNS


def sharpness_values(
    model: nn.Sequential, images: ImageSet, method: str = "saliency", device: str = "cpu", batch_size: int = 128
) -> dict[str, Float[np.ndarray, " n"]]:
    """Every measure of sharpness of each image's heatmap for its label (its strongest label, if it has several).

    Args:
        model: classifier; moves to `device`.
        images: what is explained; `lesion_energy`, and `lesion_colour`, the rank correlation of relevance and colour
            variation inside a lesion, are added where the data set knows its lesions.
        method: one of ATTRIBUTORS.
        device: where to compute.
        batch_size: images at once.
    """
    explain = ATTRIBUTORS.create(method, model.to(device))
    found: dict[str, list[torch.Tensor]] = {}
    for batch in images.batches(batch_size):
        labels = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(1)
        maps = to_heatmap(explain(batch.images.to(device), labels.to(device))).cpu()
        values = sharpness(maps)
        if images.lesion_masks is not None:
            masks = torch.from_numpy(np.ascontiguousarray(take(images.lesion_masks, batch.rows)).astype(bool))
            values["lesion_energy"] = mask_energy(maps, masks)
            values["lesion_colour"] = colour_agreement(maps, batch.images, masks)
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def sharpness_table(
    models: dict[str, nn.Sequential],
    images: ImageSet,
    method: str = "saliency",
    reference: str = "vanilla",
    seed: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """Sharpness of several models on the same images, with 95 % bootstrap intervals and paired differences.

    Returns:
        Columns model, METRIC_COLUMNS (`test/sharpness/{method}/{measure}`), and difference, difference_low,
        difference_high to the reference, pairs being images where both maps are defined.
    """
    values = {name: sharpness_values(model, images, method, device) for name, model in models.items()}
    rows = []
    for name, measures in values.items():
        for measure, value in measures.items():
            n = int((~np.isnan(value)).sum())
            row = (name, f"test/sharpness/{method}/{measure}", *mean_interval(value, seed=seed), n)
            rows.append((*row, *mean_interval(value - values[reference][measure], seed=seed)))
    return pd.DataFrame(rows, columns=["model", *METRIC_COLUMNS, "difference", "difference_low", "difference_high"])
