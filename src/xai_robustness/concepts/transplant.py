"""Does what sets a suspect apart travel with a small part of its images? The part is put into others to see.

An artifact is added to an image whatever else the image shows. So its carriers lose what sets them apart when their
most relevant pixels are replaced by those of another image of the class, and that other image gains it. A natural
subgroup differs all over the image, and little travels. Regions are exchanged as in counterfactual explanations
[Goyal2019]; here the exchange is a test, of a group of samples against the rest of its class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from xai_robustness.attribution.lean import lean
from xai_robustness.concepts.directions import balanced_weights, ridge_path
from xai_robustness.concepts.neurons import best_split
from xai_robustness.concepts.samples import LatentsReader, rows_of
from xai_robustness.concepts.spectral import RevealParams, rows_of_classes
from xai_robustness.concepts.suspicion import LIST_COLUMNS, Lists, TransplantParams
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.ranking import auroc
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import pool, tap
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError

CONFIDENCE = 0.95
TOLD = 0.9
"""AUROC, out of fold, at which activations tell a suspect's samples; below it nothing can be seen to travel."""
SMOOTHING = 1 / 28
"""Deviation of the Gaussian that smooths heatmaps before their largest values are taken, in sides of the image."""
RIDGE = 0.3
"""Strength of the ridge regression that tells a suspect's samples, for standardised activations and total weight 1."""


@dataclass(frozen=True, eq=False)
class Travelled:
    """What travelled from one side of a split of a class to the other.

    Attributes:
        share: the lower confidence bound of what carriers lose or of what others gain, the smaller of both, as a share
            of the difference between the sides; NaN where activations do not tell the sides.
        alone: the same, for this split alone: without the correction for how many are tried.
        inside: bool (N,): the side it travelled from.
    """

    share: float
    alone: float
    inside: Bool[np.ndarray, " n"]


class Transplants:
    """Exchanges the most relevant parts of training images and watches a layer.

    Args:
        latents: of the biased train split.
        model: the classifier of the latents; left as it was.
        images: the images of the train split.
        params: see `TransplantParams`.
        seed: the run's seed.
        device: where the model computes.

    Raises:
        InputError: an explained sample that is none of the images, or heatmaps of another size.
    """

    def __init__(
        self,
        latents: LatentsReader,
        model: nn.Module,
        images: ImageSet,
        params: TransplantParams,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.latents, self.model, self.images = latents, model, images
        self.params, self.seed, self.device = params, seed, device
        ids, maps = latents.sample_ids("train"), latents.heatmaps("train")
        here, there = rows_of(ids, images.sample_ids)
        size = tuple(images.image_shape[1:])
        if len(here) < len(ids) or maps.shape[1:] != size:
            raise InputError(
                f"The images parameter of Transplants must hold the {len(ids)} samples of the latents at the size of "
                f"their heatmaps, {maps.shape[1:]}. Got {len(here)} of them at {size} instead; run preprocessing again."
            )
        self._image_rows, self._positions, self._maps = there, size, maps

    @cached_property
    def _packed(self) -> np.ndarray:
        """The part of every image, as bits."""
        steps = range(0, len(self._maps), self.params.batch_size)
        parts = (most_relevant(self._maps[at : at + self.params.batch_size], self.params.area) for at in steps)
        return np.concatenate([np.packbits(some.reshape(len(some), -1), axis=1) for some in parts])

    def travelled(
        self, rows: Int[np.ndarray, " n"], view: str, inside: Bool[np.ndarray, " n"], tests: int = 1
    ) -> Travelled:
        """What travels between the two sides of samples of one class, in the direction in which it is more.

        Args:
            rows: the samples, as rows of the latents.
            view: where the sides were found apart: a layer, or "input", for which the last layer stands.
            inside: which of them are on the first side.
            tests: suspects that are tried, each in both directions; the confidence holds for all of them together.
        """
        layer = self.latents.layers[-1] if view == "input" else view
        rng = numpy_rng(self.seed, "transplant", layer)
        x = np.asarray(self.latents.activations("train", layer, "max")[rows], np.float64)
        fold = rng.permutation(len(x)) % 2
        if any(min(inside[fold == f].sum(), (~inside)[fold == f].sum()) < 2 for f in (0, 1)):
            return Travelled(float("nan"), float("nan"), inside)
        probes = _cross_fitted(x, inside, fold)
        own = _told(probes, fold, x)
        if auroc(own, inside) < TOLD:
            return Travelled(float("nan"), float("nan"), inside)
        gap = float(own[inside].mean() - own[~inside].mean())
        swaps = [self._swap(rows, side, rng) for side in (inside, ~inside)]
        activations = self._activations(torch.cat([images for images, _ in swaps]), layer)
        told = np.split(_told(probes, fold[np.concatenate([owners for _, owners in swaps])], activations), 6)
        found = []
        for (_, owners), sign, (lost, gained, usual) in zip(swaps, (1, -1), (told[:3], told[3:])):
            carriers = owners[: self.params.pairs]
            scale = sign / gap
            both = (own[carriers] - lost) * scale, (gained - usual) * scale
            share, alone = (min(_lower_bound(values, n) for values in both) for n in (2 * tests, 1))
            found.append(Travelled(share, alone, inside if sign > 0 else ~inside))
        return max(found, key=lambda one: one.share)

    def _swap(self, rows: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """Carriers that took a part, others that got theirs, others that got one of their own kind; whose they were."""
        n = self.params.pairs
        carriers = np.resize(rng.permutation(np.flatnonzero(inside)), n)
        others, more = (np.resize(rng.permutation(np.flatnonzero(~inside)), n) for _ in range(2))
        drawn = rows[np.concatenate([carriers, others, more])]
        needed, places = np.unique(self._image_rows[drawn], return_inverse=True)
        given, taking, control = self.images.tensor(needed)[places].split(n)
        bits = np.unpackbits(self._packed[drawn], axis=1, count=int(np.prod(self._positions)))
        parts = torch.from_numpy(bits.astype(bool)).reshape(len(drawn), 1, *self._positions)
        part, _, part_of_control = parts.split(n)
        lost, gained = torch.where(part, taking, given), torch.where(part, given, taking)
        usual = torch.where(part_of_control, control, taking)
        return torch.cat([lost, gained, usual]), np.concatenate([carriers, others, others])

    def _activations(self, images: Tensor, layer: str) -> Float[np.ndarray, "n k"]:
        found = []
        model = self.model.to(self.device)
        with borrow(model), torch.inference_mode(), lean(model), tap(model, [layer]) as outputs:
            for batch in images.split(self.params.batch_size):
                model(batch.to(self.device))
                found.append(pool(outputs[layer], "max").double().cpu())
        return torch.cat(found).numpy()


def most_relevant(heatmaps: Float[np.ndarray, "n h w"], area: float) -> Bool[np.ndarray, "n h w"]:
    """The pixels with the most smoothed positive relevance, `area` of all, at least one."""
    sigma = (0, *(SMOOTHING * side if side > 1 else 0 for side in heatmaps.shape[1:]))
    smooth = gaussian_filter(np.maximum(heatmaps, 0), sigma).reshape(len(heatmaps), -1)
    count = max(1, round(area * smooth.shape[1]))
    part = np.zeros(smooth.shape, bool)
    np.put_along_axis(part, np.argpartition(-smooth, count - 1, axis=1)[:, :count], True, axis=1)
    return part.reshape(heatmaps.shape)


@dataclass(frozen=True, eq=False)
class _Probe:
    """A ridge regression that tells the two sides of a split by standardised activations."""

    mean: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, x: np.ndarray, inside: np.ndarray) -> "_Probe":
        mean, spread = x.mean(0), x.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        strength = RIDGE * balanced_weights(inside).sum()
        weights, intercepts = ridge_path((x - mean) / spread, inside, np.array([strength]))
        return cls(mean, spread, weights[0], float(intercepts[0]))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((x - self.mean) / self.spread @ self.weights + self.intercept)


def _told_by_all_layers(
    latents: LatentsReader, rows: np.ndarray, inside: np.ndarray, layers: Sequence[str], seed: int
) -> Float[np.ndarray, " n"]:
    """Mean over the layers of what probes say out of fold, -1 to 1 about; 0 where a fold has no sample of a side."""
    fold = numpy_rng(seed, "transplant", "joined").permutation(len(rows)) % 2
    if any(len(np.unique(inside[fold == f])) < 2 for f in (0, 1)):
        return np.zeros(len(rows))
    told = []
    for layer in layers:
        x = np.asarray(latents.activations("train", layer, "max")[rows], np.float64)
        told.append(_told(_cross_fitted(x, inside, fold), fold, x))
    return np.asarray(np.mean(told, axis=0))


def _cross_fitted(x: np.ndarray, inside: np.ndarray, fold: np.ndarray) -> list[_Probe]:
    """A probe for each of two folds, fitted on the other."""
    return [_Probe.fit(x[fold != f], inside[fold != f]) for f in (0, 1)]


def _told(probes: Sequence[_Probe], fold: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What the probe that was fitted without a sample's fold says of it."""
    return np.where(fold == 0, probes[0](x), probes[1](x))


def _lower_bound(values: np.ndarray, tests: int) -> float:
    """Lower confidence bound of a mean share, by Student's law, one of `tests` that hold together [Dunn1961]."""
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    quantile = stats.t.ppf(1 - (1 - CONFIDENCE) / tests, len(values) - 1)
    return float(values.mean() - quantile * error)


def transplant_all(
    listed: Lists,
    latents: LatentsReader,
    model: nn.Module,
    images: ImageSet,
    params: RevealParams,
    seed: int,
    device: str | torch.device = "cpu",
) -> Lists:
    """Try every suspect of a list that is below the level, flag those that travel, and join those of one class.

    Args:
        listed: of `suspicion.rank_all`.
        latents: of the biased train split.
        model: the classifier of the latents; left as it was.
        images: the images of the train split.
        params: as of the search.
        seed: the run's seed.
        device: where the model computes.

    Returns:
        The list with `transplant` (see `Travelled.share`); flagged is what reaches `TransplantParams.share`, which
        takes the place of the margin, and is not above 1: where more than the whole difference travels, the part
        carries something else. What is flagged comes first, by what travels; the rest stays in its order. The
        flagged suspects of a class, the places or looks of one artifact, come as one more before its parts, `joined
        <class>`, with the values of the first. Its samples are those that all layers tell, out of fold, once they have
        been fitted to the union of the sides that something travelled from; here every test stands for itself.
    """
    transplants = Transplants(latents, model, images, params.transplant, seed, device)
    ids, classes, drawn = latents.sample_ids("train"), latents.targets("train"), rows_of_classes(latents, params, seed)
    table, members = listed.suspects.copy(), listed.members
    parts: dict[int, list[np.ndarray]] = {}
    tried = table[(table["kind"] != "sample") & (table["q_value"] < params.suspicion.level)]
    for at, row in tried.iterrows():
        rows = drawn[row["class"]] if row["kind"] == "cluster" else np.flatnonzero(classes == row["class"])
        inside = np.isin(ids[rows], members.loc[members["name"] == row["name"], "sample_id"])
        found = transplants.travelled(rows, row["view"], inside, len(tried))
        table.loc[at, "transplant"] = found.share
        if found.alone >= params.transplant.share and found.share <= 1:
            parts.setdefault(row["class"], []).append(ids[rows[found.inside]])
    table["flagged"] = table["transplant"].between(params.transplant.share, 1)
    flagged = table[table["flagged"]].sort_values("transplant", ascending=False, kind="stable")
    first, sides = [], []
    for c in flagged["class"].unique():
        own, rows, name = flagged[flagged["class"] == c], np.flatnonzero(classes == c), f"joined {c}"
        union = np.isin(ids[rows], np.concatenate(parts[c]))
        told = _told_by_all_layers(latents, rows, union, params.layers or latents.layers, seed)
        inside, _ = best_split(told, params.min_size)
        if inside.any():
            first.append(own.iloc[:1].assign(kind="cluster", name=name, size=int(inside.sum())))
            side = pd.DataFrame({"name": name, "sample_id": ids[rows][inside], "typical": told[inside]})
            sides.append(side.sort_values("typical", ascending=False, kind="stable"))
    table = pd.concat([*first, table], ignore_index=True)
    ahead = table["transplant"].where(table["flagged"], -np.inf)
    table = table.loc[ahead.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    table["place"] = np.arange(1, len(table) + 1)
    return Lists(table[list(LIST_COLUMNS)], pd.concat([members, *sides], ignore_index=True), listed.neurons)
