"""What the figures of neurons and transplants need: images and heatmaps of samples."""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from xai_robustness.attribution.crp import conditional_heatmaps
from xai_robustness.attribution.latents import Latents
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.concepts.neuron_views import NeuronParams, checked_layers
from xai_robustness.concepts.separability import latent_features
from xai_robustness.concepts.transplant import most_relevant
from xai_robustness.datasets.base import ImageSet, rows_of_ids
from xai_robustness.figures.neurons import References, glocal_figure, neuron_gallery
from xai_robustness.figures.reveal import transplant_figure
from xai_robustness.randomness import numpy_rng

TRIED, EXAMPLES = 6, 3
"""Suspects that the figure of transplants shows at most, and pairs of images of each."""


class Explained:
    """Training images with their explained classes, and channels of their layers in the pixels.

    Args:
        latents: of the biased train split; `images` has the same samples.
        model: classifier.
        images: biased training images.
        device: where to compute.
    """

    def __init__(self, latents: Latents, model: nn.Sequential, images: ImageSet, device: str) -> None:
        self.ids, self.targets = latents.sample_ids("train"), latents.targets("train").astype(np.int64)
        self.model, self.images, self.device = model.to(device), images, device

    def maps(
        self, lrp: Lrp, sample_ids: np.ndarray, layer: str, channels: list[list[int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pictures (B,…) of samples in their order, and their heatmaps (B,G,H,W) through each group of channels."""
        some = self.images.subset(rows_of_ids(self.images.sample_ids, sample_ids))
        targets = torch.tensor(self.targets[rows_of_ids(self.ids, sample_ids)], device=self.device)
        found = conditional_heatmaps(lrp, some.tensor(slice(None)).to(self.device), targets, layer, channels)
        return some.images, found.cpu().numpy()

    def references(self, lrp: Lrp, title: str, table: pd.DataFrame, layer: str, neuron: int) -> References:
        """The reference samples of a neuron in the order of the table, with its own heatmaps."""
        pictures, maps = self.maps(lrp, table["sample_id"].to_numpy(int), layer, [[neuron]])
        return References(title, pictures, maps[:, 0])


def draw_neurons(
    ranking: pd.DataFrame, references: pd.DataFrame, marked: pd.DataFrame, samples: Explained, params: NeuronParams
) -> Figure:
    """Gallery of the neurons that a person ticked, then of the first of each layer, `params.shown` a layer."""
    ranked = ranking.merge(marked.assign(ticked=True)[["layer", "neuron", "ticked"]], how="left")
    ranked = ranked.sort_values(["layer", "ticked"], kind="stable", na_position="last")
    rows = []
    with Lrp(samples.model) as lrp:
        for _, one in ranked.groupby("layer", sort=False).head(params.shown).iterrows():
            own = references[(references["layer"] == one["layer"]) & (references["neuron"] == one["neuron"])]
            own = own.sort_values(["by", "place"], ascending=[False, True])
            name = f"{one['layer']}, {one['neuron']}" + (" (ticked)" if one["ticked"] is True else "")
            worth = "silent" if np.isnan(one["dora_q"]) else f"q {one['dora_q']:.2g}"
            title = f"{name}\nrank {one['rank']}, {worth}"
            rows.append(samples.references(lrp, title, own, one["layer"], int(one["neuron"])))
    return neuron_gallery(rows, params.count, ("most relevance", "most activation"))


def draw_glocal(
    sample_id: int | None, references: pd.DataFrame, latents: Latents, samples: Explained, params: NeuronParams
) -> Figure:
    """One sample, or the first, and the channels of the last ranked layer that hold most of its relevance."""
    layer = checked_layers(latents, params)[-1]
    row = 0 if sample_id is None else int(np.flatnonzero(samples.ids == sample_id)[0])
    share = latent_features(latents.relevances("train", layer, "sum")[[row]])[0]
    channels = [int(k) for k in np.argsort(-share, kind="stable")[: params.concepts]]
    rows = []
    with Lrp(samples.model) as lrp:
        groups = [list(range(len(share))), *[[k] for k in channels]]
        pictures, maps = samples.maps(lrp, samples.ids[[row]], layer, groups)
        for k in channels:
            own = references[(references["layer"] == layer) & (references["neuron"] == k)]
            own = own[own["by"] == "relevance"].sort_values("place")
            rows.append(samples.references(lrp, f"channel {k}: {share[k]:.0%}", own, layer, k))
    return glocal_figure(pictures, maps[0, 0], maps[0, 1:], rows)


def draw_transplants(
    suspects: pd.DataFrame, members: pd.DataFrame, latents: Latents, images: ImageSet, area: float, seed: int
) -> Figure:
    """The first suspects that were tried: some of their samples exchange a part with others of the class."""
    ids, targets, maps = latents.sample_ids("train"), latents.targets("train"), latents.heatmaps("train")
    shown, parts, titles = [], [], []
    for _, row in suspects[suspects["transplant"].notna()].head(TRIED).iterrows():
        inside = members.loc[members["name"] == row["name"], "sample_id"].to_numpy(int)
        rest = np.setdiff1d(ids[targets == row["class"]], inside)
        carriers = np.resize(inside, EXAMPLES)
        others = numpy_rng(seed, "transplant figure", row["name"]).choice(rest, EXAMPLES)
        part = most_relevant(maps[rows_of_ids(ids, carriers)], area)
        given, taking = (images.pictures_of(some) for some in (carriers, others))
        lost, gained = np.where(part[..., None], taking, given), np.where(part[..., None], given, taking)
        shown.append(np.stack([given, lost, taking, gained], axis=1))
        parts.append(part)
        titles.append(f"{row['name']}, {images.info.class_names[int(row['class'])]}\n{row['transplant']:.1f} sd")
    return transplant_figure(titles, np.array(shown), np.array(parts))
