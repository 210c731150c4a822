"""What the figures of neurons and transplants show: images and heatmaps of samples."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xai_robustness.attribution.latents import Latents
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.concepts.neuron_heatmaps import Explained, NeuronHeatmaps, first_neurons
from xai_robustness.concepts.neuron_views import NeuronParams, checked_layers
from xai_robustness.concepts.separability import latent_features
from xai_robustness.concepts.synthetic import SyntheticReferences
from xai_robustness.concepts.transplant import most_relevant
from xai_robustness.datasets.base import ImageSet, rows_of_ids
from xai_robustness.figures.neurons import References, glocal_figure, neuron_gallery
from xai_robustness.figures.reveal import transplant_figure
from xai_robustness.randomness import numpy_rng

TRIED, EXAMPLES = 6, 3
"""Suspects that the figure of transplants shows at most, and pairs of images of each."""


def draw_neurons(
    ranking: pd.DataFrame,
    references: pd.DataFrame,
    marked: pd.DataFrame,
    heatmaps: NeuronHeatmaps,
    synthetic: SyntheticReferences,
    images: ImageSet,
    params: NeuronParams,
) -> Figure:
    """Gallery of the neurons that a person ticked, then of the first of each layer, `params.shown` a layer.

    Images that were made for them follow their samples.
    """
    rows = []
    for _, one in first_neurons(ranking, marked, params.shown).iterrows():
        layer, neuron = str(one["layer"]), int(one["neuron"])
        own = references[(references["layer"] == layer) & (references["neuron"] == neuron)]
        ids = own.sort_values(["by", "place"], ascending=[False, True])["sample_id"].to_numpy(int)
        worth = "silent" if np.isnan(one["dora_q"]) else f"q {one['dora_q']:.2g}"
        title = f"{layer}, {neuron}{' (ticked)' if one['ticked'] else ''}\nrank {one['rank']}, {worth}"
        maps = heatmaps.of(layer, neuron)
        shown, made = images.pictures_of(ids), synthetic.images(layer, neuron)
        if made is not None:
            shown = np.concatenate([shown, made / 255 if images.is_signal else made])
        rows.append(References(title, shown, np.stack([maps[i] for i in ids.tolist()])))
    return neuron_gallery(rows, params.count, ("most relevance", "most activation", "made for it"))


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
        maps = samples.maps(lrp, samples.ids[[row]], layer, groups)
        for k in channels:
            own = references[(references["layer"] == layer) & (references["neuron"] == k)]
            ids = own[own["by"] == "relevance"].sort_values("place")["sample_id"].to_numpy(int)
            through = samples.maps(lrp, ids, layer, [[k]])[:, 0]
            rows.append(References(f"channel {k}: {share[k]:.0%}", samples.images.pictures_of(ids), through))
    return glocal_figure(samples.images.pictures_of(samples.ids[[row]]), maps[0, 0], maps[0, 1:], rows)


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
