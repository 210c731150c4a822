"""Conditional heatmaps of the reference samples of neurons, kept for the figures and the review page [Achtibat2023]."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import zarr
from jaxtyping import Float, Int64
from torch import nn

from xai_robustness.attribution.crp import conditional_heatmaps
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.chunks import ArraysJob, ChunkStream, Rows
from xai_robustness.concepts.samples import LatentsReader
from xai_robustness.datasets.base import ImageSet, rows_of_ids

CHUNK = 48
"""Heatmaps that are computed and stored at once."""


class Explained:
    """Training images with their explained classes, and channels of their layers in the pixels.

    Args:
        latents: of the biased train split; `images` has the same samples.
        model: classifier.
        images: biased training images.
        device: where to compute.
    """

    def __init__(self, latents: LatentsReader, model: nn.Sequential, images: ImageSet, device: str) -> None:
        self.ids, self.targets = latents.sample_ids("train"), latents.targets("train").astype(np.int64)
        self.model, self.images, self.device = model.to(device), images, device

    def maps(
        self, lrp: Lrp, sample_ids: Int64[np.ndarray, " b"], layer: str, channels: Sequence[Sequence[int]]
    ) -> Float[np.ndarray, "b g h w"]:
        """Heatmaps of samples, in their order, through each group of channels of a layer."""
        images = self.images.tensor(rows_of_ids(self.images.sample_ids, sample_ids)).to(self.device)
        targets = torch.tensor(self.targets[rows_of_ids(self.ids, sample_ids)], device=self.device)
        return conditional_heatmaps(lrp, images, targets, layer, channels).cpu().numpy()


def first_neurons(ranking: pd.DataFrame, marked: pd.DataFrame, count: int) -> pd.DataFrame:
    """The neurons that a person ticked, then the first by rank: `count` a layer.

    Args:
        ranking: of `rank_neurons`.
        marked: of `marked_neurons`.
        count: neurons of each layer.

    Returns:
        Rows of the ranking, layer by layer, with a column `ticked`.
    """
    names = pd.MultiIndex.from_frame(marked[["layer", "neuron"]])
    ticked = pd.MultiIndex.from_frame(ranking[["layer", "neuron"]]).isin(names)
    ranked = ranking.assign(ticked=ticked).sort_values(["layer", "ticked"], ascending=[True, False], kind="stable")
    return ranked.groupby("layer", sort=False).head(count)


def heatmaps_job(neurons: pd.DataFrame, references: pd.DataFrame, samples: Explained) -> ArraysJob:
    """A lazy job that writes the conditional heatmaps of some neurons on their reference samples.

    Args:
        neurons: layer and neuron.
        references: of `neuron_references`; a sample that stands for a neuron twice is explained once.
        samples: what is explained.

    Returns:
        One group a layer: `heatmaps` float32 (N,H,W), signed, in units of the target's logit; `neurons` and
        `sample_ids` int64 (N,). `NeuronHeatmaps` reads it.
    """
    pairs = references.merge(neurons[["layer", "neuron"]]).drop_duplicates(["layer", "neuron", "sample_id"])
    layers = {str(layer): own.sort_values("neuron", kind="stable") for layer, own in pairs.groupby("layer", sort=False)}
    streams = {name: ChunkStream(len(own), _Compute(samples, name, own), CHUNK) for name, own in layers.items()}
    return ArraysJob(streams, {"units": "relevance in units of the target logit"}, "explain neurons")


@dataclass(frozen=True, eq=False)
class _Compute:
    """Rows of one layer's pairs of neuron and sample, neuron after neuron."""

    samples: Explained
    layer: str
    pairs: pd.DataFrame

    def __call__(self, start: int, stop: int) -> Rows:
        neurons, ids = self.pairs[["neuron", "sample_id"]].iloc[start:stop].to_numpy(np.int64).T
        with Lrp(self.samples.model) as lrp:
            maps = [
                self.samples.maps(lrp, ids[neurons == k], self.layer, [[k]])[:, 0] for k in np.unique(neurons).tolist()
            ]
        return {"heatmaps": np.concatenate(maps), "neurons": neurons, "sample_ids": ids}


@dataclass(frozen=True)
class NeuronHeatmaps:
    """Reader of what `heatmaps_job` has written; arrays are read when asked for."""

    root: zarr.Group

    def neurons(self, layer: str) -> set[int]:
        """Neurons of a layer that have heatmaps."""
        return set(self._read(layer, "neurons").tolist())

    def of(self, layer: str, neuron: int) -> dict[int, Float[np.ndarray, "h w"]]:
        """Sample id -> heatmap (H,W) through one neuron; empty where it has none."""
        rows = np.flatnonzero(self._read(layer, "neurons") == neuron)
        if not len(rows):
            return {}
        first, last = rows[0], rows[-1] + 1  # a neuron's rows lie side by side
        maps, ids = (self._read(layer, name, slice(first, last)) for name in ("heatmaps", "sample_ids"))
        return dict(zip(ids.tolist(), maps))

    def _read(self, layer: str, name: str, rows: slice = slice(None)) -> np.ndarray:
        found = self.root.get(f"{layer}/{name}")
        return np.asarray(found[rows]) if isinstance(found, zarr.Array) else np.zeros(0, np.int64)
