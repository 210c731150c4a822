"""What concept methods read of the latents: samples by split and class, rows by sample id."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Int

SAMPLE_COLUMNS = ("sample_id", "split", "class")


class LatentsReader(Protocol):
    """What the concept methods read of `attribution.latents.Latents`; a fake of it serves the tests."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Inspected layers, from the input to the output."""
        ...

    @property
    def model(self) -> str:
        """Fingerprint of the classifier."""
        ...

    def activations(self, split: str, layer: str, pool: str) -> np.ndarray:
        """Pooled activations (N,K)."""
        ...

    def relevances(self, split: str, layer: str, pool: str) -> np.ndarray:
        """Pooled relevances (N,K)."""
        ...

    def stored(self, split: str, key: str) -> Any:
        """`activations/<layer>/<pool>`, `relevances/<layer>/<pool>` (N,K) or `heatmaps` (N,H,W), read when sliced."""
        ...

    def heatmaps(self, split: str) -> np.ndarray:
        """Input heatmaps (N,H,W)."""
        ...

    def logits(self, split: str) -> np.ndarray:
        """Logits (N,K)."""
        ...

    def targets(self, split: str) -> np.ndarray:
        """Explained classes (N,): the label, or the strongest positive label of a multi-label task."""
        ...

    def sample_ids(self, split: str) -> np.ndarray:
        """Sample ids (N,)."""
        ...


def sample_table(latents: LatentsReader, splits: Iterable[str]) -> pd.DataFrame:
    """One row a sample, in the order of the latents: sample_id, split, class (the one that its relevances explain)."""
    tables = [
        pd.DataFrame(
            {
                "sample_id": latents.sample_ids(split),
                "split": split,
                "class": latents.targets(split),
            }
        )
        for split in splits
    ]
    return pd.concat(tables, ignore_index=True)


def rows_of(
    sample_ids: Int[np.ndarray, " n"], wanted: Int[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Pairs of places (in `sample_ids`, ascending, and in `wanted`) that hold the same id.

    Ids without a partner are left out; the order of `wanted` makes no difference to the pairs.
    """
    _, here, there = np.intersect1d(sample_ids, wanted, assume_unique=True, return_indices=True)
    order = np.argsort(here)
    return here[order], there[order]
