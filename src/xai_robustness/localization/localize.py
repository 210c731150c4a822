"""Where the artifact is: relevance of a CAV at the input, cut into a mask."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xai_robustness.attribution.latents import layer_shapes
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.chunks import ArraysJob, ChunkStream, Compute, Rows
from xai_robustness.concepts.cav import Cav, Cavs
from xai_robustness.datasets.base import ImageSet
from xai_robustness.localization.bias_score import explain_score
from xai_robustness.localization.masks import LocalizationParams, binarize
from xai_robustness.metrics.bootstrap import N_BOOT, mean_interval
from xai_robustness.metrics.localization import artifact_relevance, iou
from xai_robustness.types import METRIC_COLUMNS, InputError


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


def combined(heatmaps: Sequence[Float[Tensor, "n h w"]]) -> Float[Tensor, "n h w"]:
    """Mean of the heatmaps of several layers, each divided by its sample's largest magnitude; one stays as it is."""
    if len(heatmaps) == 1:
        return heatmaps[0]
    peaks = [h.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(h.dtype).tiny) for h in heatmaps]
    return torch.stack([h / peak for h, peak in zip(heatmaps, peaks)]).mean(0)


def cavs_of(cavs: Cavs, chosen: Cav | None, params: LocalizationParams) -> list[Cav]:
    """The vectors to localize with: the chosen one, or those of its kind in the layers that the parameters name.

    Raises:
        InputError: there is no such vector in a layer.
    """
    if chosen is None:
        return []
    return [cavs.find(layer, chosen.kind) for layer in params.layers] or [chosen]


def localize_images(
    model: nn.Sequential,
    images: ImageSet,
    cavs: Cav | Sequence[Cav],
    params: LocalizationParams,
    device: torch.device | str = "cpu",
) -> Float[np.ndarray, "n h w"]:
    """Signed heatmaps of all images, float32 (N,H,W), in memory; of several vectors they are `combined`."""
    check_positions(model, images.image_shape, _listed(cavs))
    return _compute(model, images, np.arange(len(images)), _listed(cavs), params, device)(0, len(images))["heatmaps"]


def check_positions(model: nn.Sequential, image_shape: Sequence[int], cavs: Sequence[Cav]) -> None:
    """Refuse vectors of layers whose activations (B,K) have no positions, behind the pooling; raises InputError."""
    for layer, shape in layer_shapes(model, image_shape, sorted({cav.layer for cav in cavs})).items():
        if len(shape) < 2:
            raise InputError(
                f"The layers parameter of localization must lie before the model's pooling. Got '{layer}' with "
                f"activations of shape {tuple(shape)} instead, which have no positions; choose an earlier layer."
            )


def _listed(cavs: Cav | Sequence[Cav] | None) -> list[Cav]:
    return [] if cavs is None else [cavs] if isinstance(cavs, Cav) else list(cavs)


def localization_job(
    model: nn.Sequential,
    images: Mapping[str, ImageSet],
    rows: Mapping[str, np.ndarray],
    cavs: Cav | Sequence[Cav] | None,
    params: LocalizationParams,
    device: torch.device | str = "cpu",
) -> ArraysJob:
    """Lazy heatmaps (float32, signed) and sample_ids (int64) of the chosen rows of each group of images.

    Args:
        model: the classifier; it is left as it was.
        images: group name -> images.
        rows: group name -> row numbers to localize in; groups with none are left out.
        cavs: the CAV, or those of several layers; None or none where no artifact was confirmed: no group is written.
        params: see `LocalizationParams`.
        device: where the model runs.

    Raises:
        InputError: a layer without positions, behind the pooling.
    """
    streams, used = {}, _listed(cavs)
    for name, chosen in rows.items():
        if used and len(chosen):
            check_positions(model, images[name].image_shape, used)
    for name, chosen in rows.items():
        if used and len(chosen):
            compute = _compute(model, images[name], np.asarray(chosen), used, params, device)
            streams[name] = ChunkStream(len(chosen), compute, params.chunk)
    attributes = {
        "groups": sorted(streams),
        "layer": ",".join(cav.layer for cav in used),
        "kind": used[0].kind if used else "",
        "composite": params.composite,
        "attribution": params.attribution,
    }
    return ArraysJob(streams, attributes, "localize artifacts")


def _compute(
    model: nn.Sequential,
    images: ImageSet,
    rows: np.ndarray,
    cavs: Sequence[Cav],
    params: LocalizationParams,
    device: torch.device | str,
) -> Compute:
    def compute(start: int, stop: int) -> Rows:
        chosen = rows[start:stop]
        parts = []
        with ExitStack() as stack:
            lrp = stack.enter_context(Lrp(model.to(device), params.composite)) if params.attribution == "lrp" else None
            for batch in images.batches(params.batch_size, chosen):
                x = batch.images.to(device)
                maps = [localize(lrp, x, c) if lrp else explain_score(model, c, params.attribution, x) for c in cavs]
                parts.append(combined(maps).cpu().numpy())
        heatmaps = np.concatenate(parts)
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
