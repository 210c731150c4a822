"""Versions of a data set with a real artifact: as it is, without the samples that carry it, and with it pasted in."""

import logging
from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import pandas as pd

from xai_robustness.artifacts.cut_out import CUT_OUTS, CutOut, Donors
from xai_robustness.artifacts.insertion import ArtifactParams
from xai_robustness.chunks import Rows
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError

logger = logging.getLogger(__name__)
MOST_DONORS = 200
MOST_OTHERS = 1000


def carriers(part: ImageSet, params: ArtifactParams) -> np.ndarray:
    """Which samples are labelled with the artifact, bool (N,)."""
    return part.extras[f"artifact:{params.name}"]


class RealVersions:
    """What the versions of each split hold.

    clean: the samples without the artifact. attacked: the same with a cut-out of it, from donors of the same split.
    biased: all samples as they are.

    Args:
        raw: the untouched splits, `<split>/raw`, with labels of the artifact.
        params: the artifact's name and how it is cut out.
        seed: seed of the run: which donor goes where.
    """

    def __init__(self, raw: Mapping[str, ImageSet], params: ArtifactParams, seed: int) -> None:
        self.raw, self.params, self.seed = raw, params, seed
        self.cut_out = cache(self._fit)
        self.donors = cache(self._donors)

    def rows(self, split: str, condition: str) -> np.ndarray:
        """Rows of the raw split that a version holds."""
        part = self.raw[f"{split}/raw"]
        return np.arange(len(part)) if condition == "biased" else np.flatnonzero(~carriers(part, self.params))

    def compute(self, split: str, condition: str, start: int, stop: int, told: bool) -> Rows:
        """Arrays of rows start:stop of a version."""
        part = self.raw[f"{split}/raw"]
        rows = self.rows(split, condition)[start:stop]
        images = take(part.images, rows)
        masks, where = np.zeros(images.shape[:3], bool), carriers(part, self.params)[rows]
        if condition == "attacked":
            images, where, donors = images.copy(), np.ones(len(rows), bool), self.donors(split)
            for i, sample_id in enumerate(part.sample_ids[rows]):
                images[i], masks[i] = donors.paste(images[i], numpy_rng(self.seed, "artifact", "paste", int(sample_id)))
        elif condition == "biased" and told:
            for i in np.flatnonzero(where).tolist():
                masks[i] = self.cut_out().cover(images[i]) > 0
        arrays = {"images": images, "labels": part.labels[rows], "sample_ids": part.sample_ids[rows]}
        return arrays | ({"has_artifact": where, "masks": masks} if told else {})

    def _fit(self) -> CutOut:
        part = self.raw["train/raw"]
        where = carriers(part, self.params)
        others = np.flatnonzero(~where)
        others = np.sort(numpy_rng(0, "cut-out").permutation(others)[:MOST_OTHERS])
        cut_out: CutOut = CUT_OUTS.create(self.params.cut_out)
        cut_out.fit(_each(part, np.flatnonzero(where)[:MOST_DONORS]), _each(part, others))
        return cut_out

    def _donors(self, split: str) -> Donors:
        part = self.raw[f"{split}/raw"]
        donors = Donors(self.cut_out(), take(part.images, np.flatnonzero(carriers(part, self.params))[:MOST_DONORS]))
        if not len(donors):
            raise InputError(
                f"The artifact '{self.params.name}' must be found in at least one {split} image. Got none of "
                f"{donors.n_dropped} by the cut-out '{self.params.cut_out}': choose from {', '.join(CUT_OUTS.names())}."
            )
        if donors.n_dropped:
            logger.info(
                "%s: '%s' was found in %d of %d images labelled with it.",
                split,
                self.params.name,
                len(donors),
                len(donors) + donors.n_dropped,
            )
        return donors


def _each(part: ImageSet, rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), 64):
        yield from take(part.images, rows[start : start + 64])


def real_truth(raw: Mapping[str, ImageSet], params: ArtifactParams) -> pd.DataFrame:
    """What the artifact labels say of training and validation samples: sample_id, split, class, artifact."""
    parts = [
        pd.DataFrame(
            {
                "sample_id": part.sample_ids,
                "split": split,
                "class": part.labels if part.labels.ndim == 1 else part.labels.argmax(1),
                "artifact": carriers(part, params),
            }
        )
        for split, part in (("train", raw["train/raw"]), ("val", raw["val/raw"]))
    ]
    return pd.concat(parts, ignore_index=True)
