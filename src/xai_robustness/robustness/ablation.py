"""Remove and retrain: does a model that is trained without the most relevant pixels still learn the task?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8

from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.metrics.classification import classification_metrics
from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.training import TrainingJob, TrainingParams, predict_logits
from xai_robustness.models.zoo import ModelParams
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError

Fill = Literal["white", "black", "mean"]


def ablate(images: ImageSet, heatmaps: Float[np.ndarray, "n h w"], share: float, fill: Fill = "mean") -> ImageSet:
    """A copy of a set, in memory, whose most relevant pixels are replaced in all channels.

    Args:
        images: uint8 images.
        heatmaps: (N,H,W) relevance of each pixel, signed.
        share: pixels replaced, as a share of all, in [0,1]; exactly round(share HW) an image, ties in pixel order.
        fill: white, black, or each image's own mean of each channel.
    """
    pixels = np.array(take(images.images, slice(0, len(images))))
    if heatmaps.shape != pixels.shape[:3] or not 0 <= share <= 1 or fill not in ("white", "black", "mean"):
        raise InputError(
            f"The heatmaps, share and fill parameters of ablate must be {pixels.shape[:3]}, in [0,1], and white, black "
            f"or mean. Got {heatmaps.shape}, {share} and {fill!r} instead."
        )
    k = round(share * heatmaps[0].size)
    order = np.argsort(-heatmaps.reshape(len(heatmaps), -1), axis=1, kind="stable")[:, :k]
    flat = pixels.reshape(len(pixels), -1, pixels.shape[3])
    values = _fill_values(flat, fill)
    np.put_along_axis(flat, order[:, :, None], values, axis=1)
    return replace(images, images=flat.reshape(pixels.shape))


def _fill_values(flat: UInt8[np.ndarray, "n p c"], fill: Fill) -> UInt8[np.ndarray, "n 1 c"]:
    if fill == "mean":
        return np.round(flat.mean(axis=1, keepdims=True)).astype(np.uint8)
    return np.full((len(flat), 1, flat.shape[2]), 255 if fill == "white" else 0, dtype=np.uint8)


@dataclass(frozen=True)
class Heatmaps:
    """Relevance of every image of the three splits: (N,H,W) each."""

    train: Float[np.ndarray, "n h w"]
    val: Float[np.ndarray, "n h w"]
    test: Float[np.ndarray, "n h w"]

    def random(self, seed: int) -> "Heatmaps":
        """Random relevance of the same shapes: the control."""
        rng = numpy_rng(seed, "ablation")
        return Heatmaps(*(rng.random(maps.shape) for maps in (self.train, self.val, self.test)))


def remove_and_retrain(
    sets: dict[str, ImageSet],
    heatmaps: Heatmaps,
    shares: Sequence[float],
    model: ModelParams,
    training: TrainingParams,
    folder: Path,
    fill: Fill = "mean",
    seed: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """ROAR [Hooker2019]: retrain without the most relevant pixels, beside the same without random ones.

    Relevance that tells where the task is makes accuracy fall faster than random pixels do.

    Args:
        sets: "train", "val" and "test".
        heatmaps: relevance of every image.
        shares: shares of pixels that are replaced, in all three splits.
        model: architecture.
        training: how each model is trained.
        folder: one folder a training below it; a training that was interrupted goes on.
        fill: what replaces the pixels.
        seed: seed of the trainings.
        device: where to compute.

    Returns:
        Columns relevance (given, random), share, and METRIC_COLUMNS on the ablated test images.
    """
    tables = []
    for relevance, maps in (("given", heatmaps), ("random", heatmaps.random(seed))):
        for share in shares:
            cut = {name: ablate(images, getattr(maps, name), share, fill) for name, images in sets.items()}
            place = folder / f"{relevance}_{share:g}"
            TrainingJob(model, cut["train"], cut["val"], training, seed, device).write(place)
            logits = predict_logits(load_model(place), cut["test"], training.eval_batch_size, device)
            table = classification_metrics(logits, cut["test"].labels, cut["test"].info.task, "test/ablated", seed=seed)
            tables.append(table.assign(relevance=relevance, share=share))
    table = pd.concat(tables, ignore_index=True)
    first = ["relevance", "share"]
    return table[first + [column for column in table.columns if column not in first]]
