"""What the figures of neurons need: images and conditional heatmaps of reference samples."""

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
from xai_robustness.datasets.base import ImageSet
from xai_robustness.figures.neurons import References, glocal_figure, neuron_gallery


def draw_neurons(
    ranking: pd.DataFrame,
    references: pd.DataFrame,
    marked: pd.DataFrame,
    latents: Latents,
    model: nn.Sequential,
    images: ImageSet,
    params: NeuronParams,
    device: str,
) -> Figure:
    """Gallery of the neurons that a person ticked, then of the first of each layer, `params.shown` a layer."""
    ranked = ranking.merge(marked.assign(ticked=True)[["layer", "neuron", "ticked"]], how="left")
    ranked = ranked.sort_values(["layer", "ticked"], kind="stable", na_position="last")
    rows = []
    with Lrp(model.to(device)) as lrp:
        for _, one in ranked.groupby("layer", sort=False).head(params.shown).iterrows():
            own = references[(references["layer"] == one["layer"]) & (references["neuron"] == one["neuron"])]
            own = own.sort_values(["by", "place"], ascending=[False, True])
            name = f"{one['layer']}, {one['neuron']}" + (" (ticked)" if one["ticked"] is True else "")
            title = f"{name}\nrank {one['rank']}, p {one['dora_p']:.2g}"
            rows.append(_references(title, own["sample_id"], one["layer"], one["neuron"], lrp, latents, images, device))
    return neuron_gallery(rows, params.count, ("most relevance", "most activation"))


def draw_glocal(
    sample: pd.Series,
    references: pd.DataFrame,
    latents: Latents,
    model: nn.Sequential,
    images: ImageSet,
    params: NeuronParams,
    device: str,
) -> Figure:
    """One sample and the channels of the last ranked layer that hold most of its relevance."""
    layer = checked_layers(latents, params)[-1]
    ids = latents.sample_ids("train")
    row = int(np.flatnonzero(ids == int(sample.iloc[0]))[0]) if len(sample) else 0
    share = latent_features(latents.relevances("train", layer, "sum")[[row]])[0]
    channels = np.argsort(-share, kind="stable")[: params.concepts]
    batch, targets, pictures = _batch(ids[[row]], latents, images, device)
    rows = []
    with Lrp(model.to(device)) as lrp:
        everything = [list(range(len(share)))]
        parts = conditional_heatmaps(lrp, batch, targets, layer, everything + [[int(k)] for k in channels])[0]
        maps = parts.cpu().numpy()
        for k in channels:
            own = references[(references["layer"] == layer) & (references["neuron"] == k)]
            own = own[own["by"] == "relevance"].sort_values("place")["sample_id"]
            title = f"channel {k}: {share[k]:.0%}"
            rows.append(_references(title, own, layer, int(k), lrp, latents, images, device))
    return glocal_figure(pictures, maps[0], maps[1:], rows)


def _references(
    title: str,
    sample_ids: pd.Series,
    layer: str,
    neuron: int,
    lrp: Lrp,
    latents: Latents,
    images: ImageSet,
    device: str,
) -> References:
    batch, targets, pictures = _batch(sample_ids.to_numpy(int), latents, images, device)
    maps = conditional_heatmaps(lrp, batch, targets, layer, [[int(neuron)]])[:, 0]
    return References(title, pictures, maps.cpu().numpy())


def _batch(
    sample_ids: np.ndarray, latents: Latents, images: ImageSet, device: str
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Images, explained classes and pictures of samples, in their order."""
    known = pd.Series(latents.targets("train"), latents.sample_ids("train"))
    rows = pd.Series(np.arange(len(images)), images.sample_ids).loc[sample_ids].to_numpy()
    unique, back = np.unique(rows, return_inverse=True)
    some = images.subset(unique)
    targets = torch.tensor(known.loc[sample_ids].to_numpy(np.int64), device=device)
    return some.tensor(slice(None))[back].to(device), targets, some.images[back]
