"""Transplants of the one list: which suspects of a class travel, and which neurons and samples carry what does."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from xai_robustness.concepts.neurons import best_split, neuron_sets
from xai_robustness.concepts.samples import LatentsReader
from xai_robustness.concepts.spectral import RevealParams, clusters_of_layers, rows_of_classes
from xai_robustness.concepts.suspicion import (
    LIST_COLUMNS,
    LIST_MEMBER_COLUMNS,
    NEURON_COLUMNS,
    Lists,
    pooled_activation,
    rank_all,
)
from xai_robustness.concepts.transplant import Split, Transplants, Travelled
from xai_robustness.datasets.base import ImageSet

SAME = 0.1
"""Samples in which two splits of a layer differ, as a share of the smaller side, up to which one of them is tried."""
HALF = 0.5
"""Share of a split's difference that must travel for its samples to count as carriers."""
CARRYING = 16
"""Neurons that are named as those of the carriers."""


def list_suspects(
    clusters: pd.DataFrame,
    cluster_members: pd.DataFrame,
    latents: LatentsReader,
    model: nn.Module,
    images: ImageSet,
    params: RevealParams,
    seed: int,
    device: str | torch.device = "cpu",
) -> Lists:
    """The one list of suspects: `suspicion.rank_all`, then `transplant_all` unless there are no partners.

    Args:
        clusters: of `spectral.find_suspects`.
        cluster_members: of `spectral.find_suspects`.
        latents: of the biased train split.
        model: the classifier of the latents; left as it was.
        images: the images of the train split.
        params: as of the search.
        seed: the run's seed.
        device: where the model computes.
    """
    layers = tuple(params.layers) or latents.layers
    listed = rank_all(clusters, cluster_members, latents, params.suspicion, params.min_size, seed, layers)
    if not params.transplant.partners:
        return listed
    return transplant_all(listed, latents, model, images, params, seed, device)


def transplant_all(
    listed: Lists,
    latents: LatentsReader,
    model: nn.Module,
    images: ImageSet,
    params: RevealParams,
    seed: int,
    device: str | torch.device = "cpu",
) -> Lists:
    """Try every split of every class, flag the suspects that travel, and name the samples and neurons that carry them.

    Tried are the listed clusters and sets of neurons, all other clusters of the search, and the sets of neurons of each
    layer. Clusters of input heatmaps are not: they tell where relevance lies, and whatever lies there goes along.

    Args:
        listed: of `suspicion.rank_all`.
        latents: of the biased train split.
        model: the classifier of the latents; left as it was.
        images: the images of the train split.
        params: as of the search.
        seed: the run's seed.
        device: where the model computes.

    Returns:
        The list with `transplant` (see `Travelled.distance`; undefined for what was not tried); flagged is what reaches
        `TransplantParams.distance`, which takes the place of the margin. A class where anything travels has one more
        entry, `joined <class>` (see `_joined`): an artifact in several places makes several clusters. Its `transplant`
        is the largest of its class and how far the class's effects stand apart (`Effect.distance`). What travels comes
        first, the farther the earlier; the rest stays in its order.
    """
    table, members, neurons = listed.suspects.copy(), [listed.members], [listed.neurons]
    layers = tuple(params.layers) or latents.layers
    splits = _splits_of_classes(latents, layers, params, seed)
    first = []
    for c, rows in rows_of_classes(latents, params, seed).items():
        own = table[(table["class"] == c) & (table["kind"] != "sample") & table["view"].isin(layers)]
        own = own[np.isfinite(own["statistic"].astype(float))]
        known = _listed_splits(own, listed.members, latents.sample_ids("train")[rows])
        tried = [*known, *_distinct(splits.get(c, []), known)]
        if not tried:
            continue
        transplants = Transplants(latents, rows, model, images, params.transplant, seed, device, layers)
        found = [transplants.travelled(split) for split in tried]
        largest = np.array([max((one.distance for one in both), default=np.nan) for both in found])
        table.loc[own.index, "transplant"] = largest[: len(own)]
        evidence = _evidence(transplants, tried, found, params.min_size)
        if evidence.distance > 0:
            name = f"joined {c}"
            carrying, samples = _joined(transplants, evidence, name, int(c), latents, params)
            row = {"kind": "joined", "name": name, "class": c, "view": evidence.view, "size": len(samples)}
            first.append(pd.DataFrame([row | {"statistic": evidence.statistic, "transplant": evidence.distance}]))
            members.append(samples)
            neurons.append(carrying)
    table = _stacked([*first, table]).reindex(columns=list(LIST_COLUMNS))
    table["flagged"] = table["transplant"] >= params.transplant.distance
    order = table["transplant"].fillna(0).clip(lower=0).sort_values(ascending=False, kind="stable").index
    table = table.loc[order].reset_index(drop=True)
    table["place"] = np.arange(1, len(table) + 1)
    return Lists(table, _stacked(members)[list(LIST_MEMBER_COLUMNS)], _stacked(neurons)[list(NEURON_COLUMNS)])


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; an empty one, whose columns have no type, would spoil theirs."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _listed_splits(own: pd.DataFrame, members: pd.DataFrame, ids: np.ndarray) -> list[Split]:
    sides = [np.isin(ids, members.loc[members["name"] == name, "sample_id"]) for name in own["name"]]
    return [Split(str(v), side, float(d)) for v, side, d in zip(own["view"], sides, own["statistic"])]


def _splits_of_classes(
    latents: LatentsReader, layers: Sequence[str], params: RevealParams, seed: int
) -> dict[int, list[Split]]:
    """All clusters and sets of neurons of each class, the most distant first."""
    found: dict[int, list[Split]] = {}
    for c, view, inside, distance in clusters_of_layers(latents, params, seed):
        found.setdefault(c, []).append(Split(view, inside, distance))
    for layer in layers:
        activations = latents.activations("train", layer, "max")
        for c, rows in rows_of_classes(latents, params, seed).items():
            sets = neuron_sets(activations[rows], params.min_size)[: params.suspicion.max_neuron_sets]
            found.setdefault(c, []).extend(
                Split(layer, one.inside, one.statistic) for one in sets if np.isfinite(one.statistic)
            )
    return {c: sorted(splits, key=lambda split: -split.distance) for c, splits in found.items()}


def _distinct(splits: Sequence[Split], known: Sequence[Split]) -> Iterator[Split]:
    """Splits that are none of the known ones, nor mostly one before."""
    same = {(split.view, side.tobytes()) for split in known for side in (split.inside, ~split.inside)}
    seen: list[Split] = []
    for split in splits:
        if (split.view, split.inside.tobytes()) in same:
            continue
        others = [other.inside for other in seen if other.view == split.view]
        differ = np.array([int((split.inside != other).sum()) for other in others])
        smaller = min(split.inside.sum(), (~split.inside).sum())
        if not (np.minimum(differ, len(split.inside) - differ) <= SAME * smaller).any():
            seen.append(split)
            yield split


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What says that something travels from samples of a class.

    Attributes:
        distance: standard deviations that travel, of the best split, and by which the effects stand apart.
        view: layer of whichever of both is larger.
        statistic: its distance of both sides.
        count: (N,) how much it says of each sample.
    """

    distance: float
    view: str
    statistic: float
    count: Float[np.ndarray, " n"]


def _evidence(
    transplants: Transplants, tried: Sequence[Split], found: Sequence[Sequence[Travelled]], min_size: int
) -> _Evidence:
    splits = [(one, split) for several, split in zip(found, tried) for one in several]
    best = max(splits, key=lambda both: both[0].distance, default=None)
    travels = max(0.0, best[0].distance) if best else 0.0
    effect = transplants.standing_out(min_size)
    if effect and effect.distance > travels:
        inside = effect.neurons.inside.astype(float)
        return _Evidence(travels + effect.distance, effect.layer, effect.neurons.statistic, inside)
    if best is None or travels == 0:
        return _Evidence(0.0, "", np.nan, np.zeros(len(transplants.fold)))
    distance = travels + (effect.distance if effect else 0.0)
    return _Evidence(distance, best[1].view, best[1].distance, _count([one for one, _ in splits]))


def _joined(
    transplants: Transplants, evidence: _Evidence, name: str, c: int, latents: LatentsReader, params: RevealParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The neurons and the samples of a class that carry what travels (`NEURON_COLUMNS`, `LIST_MEMBER_COLUMNS`).

    The `CARRYING` neurons that correlate most with the evidence's count order the samples by their pooled activation,
    and split them. These are the purest carriers, not all of them: so a probe of the first layer, where a mark looks
    alike whatever it lies on, learns from them who else carries it, and the neurons that correlate most with what it
    says, out of fold, are named, and the samples that they split off.
    """
    own = transplants.own
    purest = _carrying(own, evidence.count, name, c)
    inside, _ = best_split(pooled_activation(own, purest, name), params.min_size)
    told = transplants.told(Split(transplants.layers[0], inside, np.nan)) if inside.any() else evidence.count
    carrying = _carrying(own, told, name, c)
    return carrying, _split_by(carrying, latents, c, params.min_size)


def _count(found: Sequence[Travelled]) -> Float[np.ndarray, " n"]:
    """How much travels from each sample, summed over the best split and those of which half or more does.

    The root of the sum: carriers that many splits name should not drown those that few do.
    """
    best = max(found, key=lambda one: one.distance)
    chosen = [best, *(one for one in found if one.share >= HALF and one is not best)]
    return np.asarray(np.sqrt(np.sum([one.share * one.inside for one in chosen], axis=0)))


def _carrying(activations: Mapping[str, np.ndarray], count: np.ndarray, name: str, c: int) -> pd.DataFrame:
    """The neurons, of all layers, whose activations correlate most with a count over samples (`NEURON_COLUMNS`)."""
    tables = []
    centred = (count - count.mean()) / max(float(np.linalg.norm(count - count.mean())), 1e-12)
    for layer, values in activations.items():
        x = values - values.mean(0, dtype=np.float64)
        length = np.sqrt((x**2).sum(0))
        r = centred @ x / np.where(length > 0, length, np.inf)
        tables.append(pd.DataFrame({"layer": layer, "neuron": np.arange(len(r)), "r": r}))
    all_ = pd.concat(tables, ignore_index=True)
    kept = all_.loc[all_["r"].abs().sort_values(ascending=False, kind="stable").index[:CARRYING]].copy()
    kept["name"], kept["class"], kept["sign"] = name, c, np.where(kept["r"] < 0, -1, 1)
    return kept[list(NEURON_COLUMNS)]


def _split_by(carrying: pd.DataFrame, latents: LatentsReader, c: int, min_size: int) -> pd.DataFrame:
    """The samples of a class with a high pooled activation of a set of neurons (`LIST_MEMBER_COLUMNS`)."""
    rows, name = np.flatnonzero(latents.targets("train") == c), str(carrying["name"].iloc[0])
    activations = {v: latents.activations("train", v, "max")[rows] for v in carrying["layer"].unique()}
    pooled = pooled_activation(activations, carrying, name)
    side = np.flatnonzero(best_split(pooled, min_size)[0])
    side = side[np.argsort(-pooled[side], kind="stable")]
    ids = latents.sample_ids("train")[rows]
    return pd.DataFrame({"name": name, "sample_id": ids[side], "typical": pooled[side]})
