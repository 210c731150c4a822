"""Does what sets a suspect apart travel with a small part of its images? The part is put into others to see.

An artifact is added to an image whatever else the image shows. So its carriers lose what sets them apart when their
most relevant pixels are replaced by those of another image of the class, and that other image gains it. A natural
subgroup differs all over the image: little travels, and as much from the rest of the class to the subgroup, while who
has no artifact has none to give. Regions are exchanged as in counterfactual explanations [Goyal2019]; here the exchange
is a test, of a group of samples against the rest of its class.

Every sample of a class exchanges its part once with a few others, and the layers are kept: that one pass serves every
split of the class that is tried. It also says what each sample's part does whatever image it lies in, its effect: in
effects the images themselves are gone, and few carriers of a mark stand apart that hardly do among the images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.linalg import cho_factor, cho_solve
from scipy.ndimage import gaussian_filter
from torch import nn

from xai_robustness.attribution.lean import lean
from xai_robustness.concepts.neurons import NeuronSet, neuron_sets
from xai_robustness.concepts.samples import LatentsReader, rows_of
from xai_robustness.concepts.suspicion import TransplantParams
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.metrics.ranking import auroc
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import pool, tap
from xai_robustness.progress import progress
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError

ERRORS = 3.0
"""Standard errors below its mean at which a share's lower bound lies: 99.9 % where means are normal."""
TOLD = 0.9
"""AUROC, out of fold, at which activations tell the sides of a split; below it nothing can be seen to travel."""
SMOOTHING = 1 / 28
"""Deviation of the Gaussian that smooths heatmaps before their largest values are taken, in sides of the image."""
FOLDS = 5
"""Parts of a class, each told by a probe that was fitted without it; fewer in classes of less than 20 samples."""
RIDGE = 0.3
"""Strength of the ridge regression that tells the sides, for standardised activations and weights of sum 1."""
CUT = 2 * math.sqrt(2 / math.pi) / math.sqrt(1 - 2 / math.pi)
"""Distance of the halves of a normal distribution, 2.65 standard deviations of theirs: where there is no gap at all."""
TENTH = 0.1
"""Share of a split's difference that must travel for its effect to count."""
AGREEING = 3
"""Neurons that must tell an effect: one or two that speak for a few samples are found in any layer."""


@dataclass(frozen=True, eq=False)
class Split:
    """Samples of a class that stand apart from the rest of it.

    Attributes:
        view: the layer in which they do.
        inside: bool (N,), over the samples of the class that are searched.
        distance: from the rest, in standard deviations.
    """

    view: str
    inside: Bool[np.ndarray, " n"]
    distance: float


@dataclass(frozen=True, eq=False)
class Travelled:
    """What travelled from one side of a split to the other.

    Attributes:
        inside: bool (N,): the side it travelled from.
        share: the lower bound (`ERRORS`) of what carriers lose or of what others gain, the smaller of both, as a share
            of the difference between the sides, at most 1, less what travels the other way.
        distance: standard deviations of the distance that travel: share times the split's distance.
    """

    inside: Bool[np.ndarray, " n"]
    share: float
    distance: float


@dataclass(frozen=True, eq=False)
class Effect:
    """Samples of a class whose parts do something to an image that the parts of the others do not.

    Attributes:
        layer: where it is seen.
        neurons: those that tell it, over the samples of the class.
    """

    layer: str
    neurons: NeuronSet

    @property
    def distance(self) -> float:
        """How much farther the samples stand apart than the halves of a normal distribution, in deviations."""
        return self.neurons.statistic - CUT


class Transplants:
    """The samples of one class after they exchanged their most relevant parts, as the layers see them.

    Args:
        latents: of the biased train split.
        rows: (N,) the samples of the class, as rows of the latents.
        model: the classifier of the latents; left as it was.
        images: the images of the train split.
        params: see `TransplantParams`.
        seed: the run's seed.
        device: where the model computes.
        layers: layers that are looked at; empty: all of the latents.

    Raises:
        InputError: an explained sample that is none of the images, or heatmaps of another size.
    """

    def __init__(
        self,
        latents: LatentsReader,
        rows: Int[np.ndarray, " n"],
        model: nn.Module,
        images: ImageSet,
        params: TransplantParams,
        seed: int,
        device: str | torch.device = "cpu",
        layers: Sequence[str] = (),
    ) -> None:
        self.layers = tuple(layers) or latents.layers
        self.own = {layer: np.asarray(latents.activations("train", layer, "max")[rows]) for layer in self.layers}
        rng = numpy_rng(seed, "transplant", int(latents.targets("train")[rows[0]]))
        n_folds = max(2, min(FOLDS, len(rows) // 4))
        self.fold = rng.permutation(len(rows)) % n_folds  # of both of a pair, so that no probe knows one of them
        folds = range(n_folds)
        rounds = [rng.permutation(np.flatnonzero(self.fold == f)) for f in folds for _ in range(params.partners)]
        self.donors, self.takers = np.concatenate(rounds), np.concatenate([np.roll(order, 1) for order in rounds])
        maps = take(latents.stored("train", "heatmaps"), rows)
        where = _image_rows(latents.sample_ids("train"), maps, images)[rows]
        self._ridges: dict[str, list[_Ridge]] = {}
        self._exchange(maps, where, model.to(device), images, params, device)

    def _exchange(
        self,
        maps: np.ndarray,
        where: np.ndarray,
        model: nn.Module,
        images: ImageSet,
        params: TransplantParams,
        device: str | torch.device,
    ) -> None:
        """`without` and `with_`, layer -> (pairs,K): donors that lost their part to a taker, and takers that got it."""
        steps = range(0, len(self.donors), params.batch_size)
        found: dict[str, list[np.ndarray]] = {layer: [] for layer in self.layers}
        bar = progress(len(self.donors), "transplants")
        with borrow(model), torch.inference_mode(), lean(model), tap(model, list(self.layers)) as outputs, bar:
            for at in steps:
                donors, takers = (which[at : at + params.batch_size] for which in (self.donors, self.takers))
                part = torch.from_numpy(most_relevant(maps[donors], params.area))[:, None]
                given, taking = images.tensor(where[donors]), images.tensor(where[takers])
                model(torch.cat([torch.where(part, taking, given), torch.where(part, given, taking)]).to(device))
                for layer in self.layers:
                    pooled = pool(outputs[layer], "max").float().cpu().numpy()
                    found[layer].append(pooled.reshape(2, len(donors), -1))
                bar.update(len(donors))
        both = {layer: np.concatenate(parts, axis=1) for layer, parts in found.items()}
        self.without = {layer: values[0] for layer, values in both.items()}
        self.with_ = {layer: values[1] for layer, values in both.items()}

    def travelled(self, split: Split) -> list[Travelled]:
        """What travels from each side of a split to the other; empty where activations do not tell the sides."""
        inside, fold = split.inside, self.fold
        if any(min(inside[fold != f].sum(), (~inside)[fold != f].sum()) < 2 for f in np.unique(fold)):
            return []
        probes, own = self._probes(split)
        told = _told(probes, fold, own)
        if auroc(told, inside) < TOLD:
            return []
        gap = float(told[inside].mean() - told[~inside].mean())
        lost = told[self.donors] - _told(probes, fold[self.donors], self.without[split.view])
        gained = _told(probes, fold[self.takers], self.with_[split.view]) - told[self.takers]
        ways = [
            self._way(side, lost * scale, gained * scale) for side, scale in ((inside, 1 / gap), (~inside, -1 / gap))
        ]
        found = []
        for side, (losses, gains, usual), (back_losses, back_gains, back_usual) in zip(
            (inside, ~inside), ways, ways[::-1]
        ):
            if min(len(losses), len(usual)) < 3:
                continue
            back = min(_mean(back_losses), _mean(back_gains) - _mean(back_usual))
            bound = min(1.0, _lower_bound(losses), _lower_bound(gains, usual))
            share = bound - max(0.0, back)
            found.append(Travelled(side, share, share * split.distance))
        return found

    def effects(self, layer: str) -> Float[np.ndarray, "n k"]:
        """What the part of each sample does: the mean of what images gain by it and of what the sample loses with it.

        In standard deviations of each neuron over the class; 0 where that is silent.
        """
        own, n = self.own[layer], len(self.fold)
        both = (self.with_[layer] - own[self.takers] + own[self.donors] - self.without[layer]) / 2
        total = np.zeros((n, both.shape[1]))
        np.add.at(total, self.donors, both)
        spread = own.std(0)
        return total / np.bincount(self.donors, minlength=n)[:, None] / np.where(spread > 0, spread, np.inf)

    def standing_out(self, min_size: int) -> Effect | None:
        """The effect, of all layers, that stands apart most and from whose samples a tenth travels.

        The second (see `travelled`) leaves out what both sides do to each other, such as the parts of brighter images
        to darker ones.

        Args:
            min_size: samples that have it, and that do not, at least.

        Returns:
            None where there is no such effect.
        """
        sets = [(one, layer) for layer in self.layers for one in neuron_sets(self.effects(layer), min_size, AGREEING)]
        for one, layer in sorted(sets, key=lambda both: -both[0].statistic):
            if not CUT < one.statistic < np.inf:
                continue
            found = self.travelled(Split(layer, one.inside, one.statistic))
            if any(travelled.share >= TENTH and (travelled.inside == one.inside).all() for travelled in found):
                return Effect(layer, one)
        return None

    def told(self, split: Split) -> Float[np.ndarray, " n"]:
        """What a probe of the split's layer says of each sample of the class, fitted on the other folds."""
        probes, own = self._probes(split)
        return _told(probes, self.fold, own)

    def _probes(self, split: Split) -> tuple[list["_Probe"], np.ndarray]:
        """Of each fold, fitted on the others; and the activations of the layer."""
        own, folds = self.own[split.view].astype(np.float64), np.unique(self.fold)
        if split.view not in self._ridges:
            self._ridges[split.view] = [_Ridge.of(own[self.fold != f]) for f in folds]
        return [
            ridge.probe(own[self.fold != f], split.inside[self.fold != f])
            for f, ridge in zip(folds, self._ridges[split.view])
        ], own

    def _way(self, side: np.ndarray, lost: np.ndarray, gained: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By donor: what one side loses and the other gains, and what the other gains from its own kind."""
        across, among = side[self.donors] & ~side[self.takers], ~side[self.donors] & ~side[self.takers]
        return self._by_donor(lost, across), self._by_donor(gained, across), self._by_donor(gained, among)

    def _by_donor(self, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Means over the chosen pairs of each donor that has one: donors are independent, their pairs are not."""
        count = np.bincount(self.donors[chosen], minlength=len(self.fold))
        total = np.bincount(self.donors[chosen], values[chosen], minlength=len(self.fold))
        return np.asarray(total[count > 0] / count[count > 0])


def _image_rows(ids: np.ndarray, maps: np.ndarray, images: ImageSet) -> np.ndarray:
    """Where the explained samples lie among the images."""
    here, there = rows_of(ids, images.sample_ids)
    size = tuple(images.image_shape[1:])
    if len(here) < len(ids) or maps.shape[1:] != size:
        raise InputError(
            f"The images parameter of Transplants must hold the {len(ids)} samples of the latents at the size of "
            f"their heatmaps, {maps.shape[1:]}. Got {len(here)} of them at {size} instead; run preprocessing again."
        )
    return there


def most_relevant(heatmaps: Float[np.ndarray, "n h w"], area: float) -> Bool[np.ndarray, "n h w"]:
    """The pixels with the most smoothed positive relevance, `area` of all, at least one."""
    sigma = (0, *(SMOOTHING * side if side > 1 else 0 for side in heatmaps.shape[1:]))
    smooth = gaussian_filter(np.maximum(heatmaps, 0), sigma).reshape(len(heatmaps), -1)
    count = max(1, round(area * smooth.shape[1]))
    part = np.zeros(smooth.shape, bool)
    np.put_along_axis(part, np.argpartition(-smooth, count - 1, axis=1)[:, :count], True, axis=1)
    return part.reshape(heatmaps.shape)


@dataclass(frozen=True, eq=False)
class _Ridge:
    """Ridge regressions on the same samples, whose one decomposition serves every split of them.

    Attributes:
        mean: (K,).
        spread: (K,), 1 where nothing varies.
        factor: Cholesky factor of the regularised Gram matrix, of features or, where they are fewer, of samples.
    """

    mean: np.ndarray
    spread: np.ndarray
    factor: tuple[np.ndarray, bool]

    @classmethod
    def of(cls, x: np.ndarray) -> "_Ridge":
        mean, spread = x.mean(0), x.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        z = (x - mean) / spread
        gram = z @ z.T if z.shape[0] < z.shape[1] else z.T @ z
        return cls(mean, spread, cho_factor(gram + RIDGE * len(x) * np.eye(len(gram))))

    def probe(self, x: np.ndarray, inside: np.ndarray) -> "_Probe":
        """What tells a split of the samples x."""

        def standardised(a: np.ndarray) -> np.ndarray:
            """The product of the transposed standardised samples with a (N,)."""
            return np.asarray((x.T @ a - self.mean * a.sum()) / self.spread)

        y, inner = inside - inside.mean(), len(self.factor[0]) < x.shape[1]
        solved = standardised(cho_solve(self.factor, y)) if inner else cho_solve(self.factor, standardised(y))
        weights = solved / self.spread
        return _Probe(weights, float(inside.mean() - self.mean @ weights))


@dataclass(frozen=True, eq=False)
class _Probe:
    """A linear function of activations that tells the two sides of a split."""

    weights: np.ndarray
    intercept: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ self.weights.astype(x.dtype) + self.intercept, np.float64)


def _told(probes: Sequence[_Probe], fold: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What the probe that was fitted without a sample's fold says of it."""
    told = np.empty(len(x))
    for f, probe in enumerate(probes):
        told[fold == f] = probe(x[fold == f])
    return told


def _mean(values: np.ndarray) -> float:
    """0 where there are none: of a small side hardly one sample gives to another."""
    return float(values.mean()) if len(values) else 0.0


def _lower_bound(values: np.ndarray, usual: np.ndarray | None = None) -> float:
    """Of a mean, or of its distance from another: `ERRORS` standard errors below it."""
    samples = [values] if usual is None else [values, usual]
    error = np.sqrt(sum(float(s.var(ddof=1)) / len(s) for s in samples))
    return float(values.mean()) - (0.0 if usual is None else float(usual.mean())) - ERRORS * error
