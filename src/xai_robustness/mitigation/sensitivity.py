"""Whether corrected models still use the concept: TCAV of several models, insertions in place, against chance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import nn

from xai_robustness.concepts.cav import fit_cav
from xai_robustness.concepts.retrieval import suspect_classes
from xai_robustness.concepts.tcav import (
    QUANTITIES,
    Derivatives,
    against_chance,
    derivatives,
    is_linear_after,
    judging_layer,
    random_directions,
)
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.bootstrap import Interval, Resamples, once, percentile_interval
from xai_robustness.metrics.classification import DIFFERENCE_COLUMNS
from xai_robustness.models.checkpoint import insertions_of
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import pool
from xai_robustness.models.zoo import inspected_layers, layer_names, split
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import METRIC_COLUMNS, InputError

Loader = Callable[[], nn.Sequential]
TCAV_COLUMNS = ("candidate", "layer", "linear", *METRIC_COLUMNS, *DIFFERENCE_COLUMNS)
N_RANDOM = 100
"""Random directions that a quotient is compared with."""


@dataclass(frozen=True)
class Labelled:
    """Training images of the classes with a confirmed artifact, and which of them carry it.

    Attributes:
        images: the images (N).
        artifact: bool (N,).
        classes: the classes in which an artifact was confirmed.
    """

    images: ImageSet
    artifact: Bool[np.ndarray, " n"]
    classes: Sequence[int]

    @classmethod
    def of(cls, train: ImageSet, artifact_labels: pd.DataFrame, n_max: int = 1000) -> "Labelled | None":
        """From the refined labels, at most `n_max` samples in storage order; None where no artifact was confirmed."""
        classes = suspect_classes(artifact_labels)
        table = artifact_labels[(artifact_labels["split"] == "train") & artifact_labels["class"].isin(classes)]
        known = dict(zip(table["sample_id"].tolist(), table["artifact"].astype(bool).tolist()))
        rows = np.flatnonzero(np.isin(train.sample_ids, list(known)))[:n_max]
        artifact = np.array([known[int(i)] for i in train.sample_ids[rows]], bool)
        if min(artifact.sum(), (~artifact).sum()) < 2:
            return None
        return cls(train.subset(rows), artifact, classes)


def tcav_metrics(
    models: Mapping[str, Loader],
    reference: str,
    labelled: Labelled | None,
    images: ImageSet,
    prefix: str,
    seed: int,
    device: str,
    kind: str = "signal",
    n_max: int = 200,
    n_boot: int = 1000,
) -> pd.DataFrame:
    """TCAV of several models on images with the artifact, for the logit of the class that the artifact stood for.

    A model is tested at its `judging_layer`; a model with a projection behind that, since along a projection's own
    direction the mean derivative is zero by construction. The direction is fitted for each model at that layer on its
    own activations of training images, so it is the direction that encodes the artifact in this very model. Each
    model is compared with the reference at the same layer.

    Args:
        models: candidate -> loader.
        reference: the uncorrected one.
        labelled: training images to fit the directions on; None gives an empty table.
        images: images with the artifact.
        prefix: `{split}/{condition}` of the metric names.
        seed: seed of the run.
        device: where to compute.
        kind: kind of the concept vector.
        n_max: at most this many images, drawn by the seed.
        n_boot: bootstrap replicates.

    Returns:
        TCAV_COLUMNS. `linear` says that everything behind the layer is linear, so that quotients can only be 0 or 1
        and sensitivity and alignment are to be looked at. Metrics are those of `Derivatives.quantities`, and
        `tcav_distance` (of the quotient from 0.5), `tcav_random_distance`, `tcav_random_high` and `tcav_p_value` (see
        `Chance`; no intervals).
    """
    if labelled is None:
        return pd.DataFrame(columns=list(TCAV_COLUMNS))
    n = min(n_max, len(images))
    chosen = images.subset(np.sort(numpy_rng(seed, "tcav", "samples").permutation(len(images))[:n]))
    test = _Test(labelled, chosen, seed, device, kind, n_boot)
    base: dict[str, Derivatives] = {}
    rows: list[tuple] = []
    for candidate, load in models.items():
        model = load()
        layer = layer_to_judge(model)
        if layer not in base:
            base[layer] = test.measure(models[reference](), layer)
        found = base[layer] if candidate == reference else test.measure(model, layer)
        about = (candidate, layer, is_linear_after(model, layer))
        rows += [(*about, f"{prefix}/{name}", *values) for name, values in test.rows(found, base[layer])]
    return pd.DataFrame(rows, columns=list(TCAV_COLUMNS))


def layer_to_judge(model: nn.Sequential) -> str:
    """The layer at which a model, with what was inserted into it, is tested."""
    order, inserted = layer_names(model), [entry["layer"] for entry in insertions_of(model)]
    last = max(inserted, key=order.index) if inserted else None
    stage = order[order.index(last) + 1] if last else None
    try:
        preferred = inspected_layers(model)
    except InputError:  # a model that is not of the zoo
        preferred = ()
    return judging_layer(model, preferred, stage)


@dataclass(frozen=True)
class _Test:
    labelled: Labelled
    images: ImageSet
    seed: int
    device: str
    kind: str
    n_boot: int

    def measure(self, model: nn.Sequential, layer: str) -> Derivatives:
        """Derivatives along the model's own direction, the first, and along random ones."""
        vector = fit_direction(model, layer, self.labelled, self.kind, self.device)
        random = random_directions(N_RANDOM, len(vector), self.seed)
        directions = np.concatenate([vector[None], random])
        return derivatives(model, layer, directions, self.images, self._classes(), device=self.device)

    def _classes(self) -> Int64[np.ndarray, " n"]:
        """The sample's own class where an artifact was confirmed in it, else the first class with one."""
        labels = self.images.labels if self.images.labels.ndim == 1 else np.full(len(self.images), -1)
        return np.where(np.isin(labels, self.labelled.classes), labels, self.labelled.classes[0])

    def rows(self, found: Derivatives, base: Derivatives) -> list[tuple[str, tuple]]:
        """Metric and its values in the order of the columns."""
        n, none = len(found.length), Interval(np.nan, np.nan, np.nan)
        resamples = Resamples(np.zeros(n), self.n_boot, self.seed)
        drawn = [(_block(found, weights), _block(base, weights)) for weights in resamples.blocks()]
        own, other = _block(found, once(n)), _block(base, once(n))
        rows: list[tuple[str, tuple]] = []
        for name in own:
            spread = np.concatenate([a[name] for a, _ in drawn])
            difference = spread - np.concatenate([b[name] for _, b in drawn])
            value, gain = float(own[name][0]), float(own[name][0] - other[name][0])
            interval = percentile_interval(value, spread)
            rows.append((name, (*interval, n, *percentile_interval(gain, difference))))
        chance = against_chance(found)
        for name in ("random_distance", "random_high", "p_value"):
            rows.append((f"tcav_{name}", (getattr(chance, name), np.nan, np.nan, n, *none)))
        return rows


def _block(found: Derivatives, weights: Float[np.ndarray, "n b"]) -> dict[str, np.ndarray]:
    values = found.quantities(weights)
    return {name: values[name] for name in QUANTITIES} | {"tcav_distance": np.abs(values["tcav_quotient"] - 0.5)}


def fit_direction(
    model: nn.Sequential, layer: str, labelled: Labelled, kind: str, device: str, batch_size: int = 128
) -> Float[np.ndarray, " k"]:
    """Unit direction of the artifact in a model's max-pooled activations of the labelled training images."""
    prefix, _ = split(model.to(device), layer)
    with borrow(model), torch.inference_mode():
        parts = [pool(prefix(b.images.to(device)), "max").cpu() for b in labelled.images.batches(batch_size)]
    features = torch.cat(parts).numpy().astype(np.float64)
    return fit_cav(features, labelled.artifact, kind, layer).vector
