"""Where the artifact is: relevance of a CAV at the input, cut into a mask."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
import zarr
from jaxtyping import Bool, Float
from pydantic import Field
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.chunks import ArraysJob, ChunkStream, Compute, Rows
from xai_robustness.concepts.cav import Cav
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.bootstrap import N_BOOT, mean_interval
from xai_robustness.metrics.localization import artifact_relevance, iou
from xai_robustness.types import METRIC_COLUMNS, NEUTRAL, InputError, Params

REFERENCE_SIZE = 224
"""Image side in pixels to which the kernel of the blur refers."""


class LocalizationParams(Params):
    """How heatmaps of a CAV become masks."""

    method: Literal["otsu", "percentile"] = Field("otsu", description="threshold of each heatmap")
    percentile: float = Field(92.0, gt=0, lt=100, description="share of pixels below the percentile threshold")
    blur_kernel: int = Field(7, ge=0, description="side of the blur in pixels of a 224 px image; 0: no blur")
    blur_sigma: float = Field(8.0, gt=0, description="standard deviation of the blur in pixels of a 224 px image")
    composite: str = Field("epsilon_plus_flat", description="LRP composite")
    batch_size: Annotated[int, NEUTRAL] = Field(64, ge=1, description="images in one pass")
    chunk: Annotated[int, NEUTRAL] = Field(256, ge=1, description="images stored as one chunk")


def cav_relevance(activation: Float[Tensor, "n k *p"], vector: Float[Tensor, " k"]) -> Float[Tensor, "n k *p"]:
    """Relevance to start from at the CAV's layer: max(a, 0) times the CAV, at every position [Pahde2023]."""
    return activation.clamp_min(0) * vector.view(1, -1, *[1] * (activation.ndim - 2))


def localize(lrp: Lrp, images: Float[Tensor, "n c h w"], cav: Cav) -> Float[Tensor, "n h w"]:
    """Signed heatmaps of a CAV: its relevance, propagated from its layer to the input, summed over channels.

    Args:
        lrp: an entered `Lrp` context around the model.
        images: (N,C,H,W) in [0,1].
        cav: the CAV; its layer is where the propagation starts.
    """
    vector = torch.from_numpy(cav.vector).to(images.device)
    return lrp.from_layer(images, cav.layer, lambda a: cav_relevance(a, vector)).sum(1)


def blurred(heatmaps: Float[np.ndarray, "n h w"], kernel: int, sigma: float) -> Float[np.ndarray, "n h w"]:
    """Gaussian blur with a kernel of `kernel` pixels (0: none), both given for 224 px and scaled to the image's side.

    The kernel never shrinks below three pixels: at 28 px that raised the IoU with a band-aid from 0.44 to 0.62.
    """
    if kernel == 0:
        return heatmaps
    scale = heatmaps.shape[1] / REFERENCE_SIZE
    radius = max(1, round((kernel * scale - 1) / 2))
    return ndimage.gaussian_filter(
        heatmaps, (0, sigma * scale, sigma * scale), radius=(0, radius, radius), mode="mirror"
    )


def binarize(heatmaps: Float[np.ndarray, "n h w"], params: LocalizationParams) -> Bool[np.ndarray, "n h w"]:
    """Masks: positive part, blur, and Otsu's threshold [Otsu1979] or a percentile, each heatmap for itself.

    A heatmap without positive relevance gives an empty mask.
    """
    positive = blurred(np.maximum(heatmaps, 0).astype(np.float64), params.blur_kernel, params.blur_sigma)
    return positive > _thresholds(positive, params)[:, None, None]


def _thresholds(positive: np.ndarray, params: LocalizationParams) -> np.ndarray:
    if params.method == "percentile":
        return np.percentile(positive, params.percentile, axis=(1, 2))
    return np.array([threshold_otsu(h) if h.max() > h.min() else h.max() for h in positive])


def localize_images(
    model: nn.Sequential, images: ImageSet, cav: Cav, params: LocalizationParams, device: torch.device | str = "cpu"
) -> Float[np.ndarray, "n h w"]:
    """Signed heatmaps of all images, float32 (N,H,W), in memory."""
    return _compute(model, images, np.arange(len(images)), cav, params, device)(0, len(images))["heatmaps"]


def localization_job(
    model: nn.Sequential,
    images: Mapping[str, ImageSet],
    rows: Mapping[str, np.ndarray],
    cav: Cav | None,
    params: LocalizationParams,
    device: torch.device | str = "cpu",
) -> ArraysJob:
    """Lazy heatmaps (float32, signed) and sample_ids (int64) of the chosen rows of each group of images.

    Args:
        model: the classifier; it is left as it was.
        images: group name -> images.
        rows: group name -> row numbers to localize in; groups with none are left out.
        cav: the CAV, or None where no artifact was confirmed: the job then writes no group.
        params: see `LocalizationParams`.
        device: where the model runs.
    """
    streams = {}
    for name, chosen in rows.items():
        if cav is not None and len(chosen):
            compute = _compute(model, images[name], np.asarray(chosen), cav, params, device)
            streams[name] = ChunkStream(len(chosen), compute, params.chunk)
    attributes = {
        "groups": sorted(streams),
        "layer": cav.layer if cav else "",
        "kind": cav.kind if cav else "",
        "composite": params.composite,
    }
    return ArraysJob(streams, attributes, "localize artifacts")


def _compute(
    model: nn.Sequential,
    images: ImageSet,
    rows: np.ndarray,
    cav: Cav,
    params: LocalizationParams,
    device: torch.device | str,
) -> Compute:
    def compute(start: int, stop: int) -> Rows:
        chosen = rows[start:stop]
        with Lrp(model.to(device), params.composite) as lrp:
            batches = images.batches(params.batch_size, chosen)
            heatmaps = np.concatenate([localize(lrp, b.images.to(device), cav).cpu().numpy() for b in batches])
        return {"heatmaps": heatmaps.astype(np.float32), "sample_ids": images.sample_ids[chosen]}

    return compute


def binarization_job(heatmaps: zarr.Group, params: LocalizationParams) -> ArraysJob:
    """Lazy masks (bool) and sample_ids of every group that `localization_job` wrote; none where it wrote none.

    Args:
        heatmaps: the opened store of `localization_job`.
        params: see `LocalizationParams`.
    """
    listed: Any = heatmaps.attrs["groups"]
    streams = {}
    for name in listed:
        n = _array(heatmaps, f"{name}/sample_ids").shape[0]
        streams[name] = ChunkStream(n, _binarized(heatmaps, name, params), params.chunk)
    return ArraysJob(streams, dict(heatmaps.attrs) | {"method": params.method}, "binarize heatmaps")


def _binarized(root: zarr.Group, name: str, params: LocalizationParams) -> Compute:
    def compute(start: int, stop: int) -> Rows:
        heatmaps, ids = (np.asarray(_array(root, f"{name}/{key}")[start:stop]) for key in ("heatmaps", "sample_ids"))
        return {"masks": binarize(heatmaps, params), "sample_ids": ids}

    return compute


def read_masks(root: zarr.Group) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Group name -> sample_ids and masks, in memory, of a store of `binarization_job`; empty where it wrote none."""
    listed: Any = root.attrs["groups"]
    return {
        name: (np.asarray(_array(root, f"{name}/sample_ids")[:]), np.asarray(_array(root, f"{name}/masks")[:]))
        for name in listed
    }


def _array(root: zarr.Group, path: str) -> zarr.Array:
    array = root[path]
    assert isinstance(array, zarr.Array)
    return array


def localization_metrics(
    group: str,
    heatmaps: Float[np.ndarray, "n h w"],
    masks: Bool[np.ndarray, "n h w"],
    truth: Bool[np.ndarray, "n h w"],
    seed: int,
    n_boot: int = N_BOOT,
) -> pd.DataFrame:
    """Mean artifact relevance and IoU with intervals: rows `<group>/artifact_relevance` and `<group>/iou`.

    Args:
        group: `<split>/<condition>`.
        heatmaps: signed, of a CAV.
        masks: predicted.
        truth: true masks of the same samples.
        seed: the run's seed, for the intervals.
        n_boot: bootstrap replicates.

    Returns:
        `METRIC_COLUMNS`; n counts the samples where the metric is defined, value and bounds are NaN where n is 0
        (a brightness artifact covers everything).
    """
    if not heatmaps.shape == masks.shape == truth.shape:
        raise InputError(
            "The heatmaps, masks and truth parameters of localization_metrics must have one shape. "
            f"Got {heatmaps.shape}, {masks.shape} and {truth.shape} instead."
        )
    values = {"artifact_relevance": artifact_relevance(heatmaps, truth), "iou": iou(masks, truth)}
    rows = [
        (f"{group}/{name}", *mean_interval(v, n_boot, seed), int((~np.isnan(v)).sum())) for name, v in values.items()
    ]
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS))
