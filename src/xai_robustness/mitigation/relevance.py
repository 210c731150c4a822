"""How much of a model's explanation lies on the artifact, before and after correction."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import nn

from xai_robustness.attribution.heatmap import to_heatmap
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.bootstrap import mean_interval
from xai_robustness.metrics.localization import absolute_artifact_relevance, artifact_relevance
from xai_robustness.progress import progress
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import METRIC_COLUMNS

DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high")
DEFINITIONS = {
    "artifact_relevance": artifact_relevance,
    "absolute_artifact_relevance": absolute_artifact_relevance,
}


def heatmaps_of(
    model: nn.Sequential, images: ImageSet, device: str, batch_size: int = 128
) -> Float[np.ndarray, "n h w"]:
    """LRP heatmaps of the true label's logit, float32 (N,H,W), signed."""
    parts = []
    with Lrp(model.to(device)) as lrp, progress(len(images), "explain") as bar:
        for batch in images.batches(batch_size):
            targets = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(1)
            result = lrp.run(batch.images.to(device), targets.to(device))
            parts.append(to_heatmap(result.attribution).cpu().numpy())
            bar.update(len(batch.rows))
    return np.concatenate(parts)


def attributions_of(
    model: nn.Sequential, images: ImageSet, device: str, batch_size: int = 128
) -> Float[np.ndarray, "n c h w"]:
    """LRP attribution of the true label's logit at every channel, float32 (N,C,H,W), signed."""
    parts = []
    with Lrp(model.to(device)) as lrp:
        for batch in images.batches(batch_size):
            targets = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(1)
            parts.append(lrp.run(batch.images.to(device), targets.to(device)).attribution.cpu().numpy())
    return np.concatenate(parts)


def relevance_metrics(
    models: Mapping[str, Callable[[], nn.Sequential]],
    images: ImageSet,
    prefix: str,
    seed: int,
    device: str,
    reference: str,
    n_max: int = 200,
) -> pd.DataFrame:
    """Artifact relevance of several models on the same attacked images, under both published definitions.

    Args:
        models: candidate -> loader of its model; one is loaded at a time.
        images: attacked images with true masks.
        prefix: `{split}/{condition}` of the metric names.
        seed: seed of the run, for the samples and the bootstrap.
        device: where to compute.
        reference: the candidate that paired differences are taken to.
        n_max: at most this many images, drawn by the seed.

    Returns:
        Columns candidate, METRIC_COLUMNS, DIFFERENCE_COLUMNS; NaN with n = 0 where the mask is the whole image.
    """
    n = min(n_max, len(images))
    chosen = images.subset(np.sort(numpy_rng(seed, "relevance").permutation(len(images))[:n]))
    masks = np.asarray(chosen.masks, bool)
    values: dict[str, dict[str, np.ndarray]] = {}
    for candidate, load in models.items():
        heatmaps = heatmaps_of(load(), chosen, device)
        values[candidate] = {name: np.asarray(measure(heatmaps, masks)) for name, measure in DEFINITIONS.items()}
    rows = []
    for candidate, found in values.items():
        for name, value in found.items():
            base = values[reference][name] if reference in values else np.full_like(value, np.nan)
            row = (candidate, f"{prefix}/{name}", *mean_interval(value, seed=seed), int((~np.isnan(value)).sum()))
            rows.append((*row, *mean_interval(value - base, seed=seed)))
    return pd.DataFrame(rows, columns=["candidate", *METRIC_COLUMNS, *DIFFERENCE_COLUMNS])
