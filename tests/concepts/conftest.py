"""A reader of invented latents: two layers, three classes, an artifact in part of class 0."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

OFFSETS = {"train": 0, "val": 1000, "test": 2000}


@dataclass
class FakeLatents:
    """The interface of `attribution.latents.Latents` over arrays that are drawn, not computed."""

    rate: float = 0.5
    seed: int = 0
    layers: tuple[str, ...] = ("early", "late")
    model: str = "f1a9"
    sizes: dict[str, int] = field(default_factory=lambda: {"train": 240, "val": 90, "test": 150})

    def _rng(self, split, *names):
        return np.random.default_rng([self.seed, OFFSETS[split], *map(len, names)])

    def labels(self, split):
        return np.arange(self.sizes[split]) % 3

    def sample_ids(self, split):
        return (np.arange(self.sizes[split]) + OFFSETS[split]).astype(np.int64)

    def has_artifact(self, split):
        drawn = np.random.default_rng([9, self.seed, OFFSETS[split]]).random(self.sizes[split]) < self.rate
        return drawn & (self.labels(split) == 0)

    def activations(self, split, layer, pool):
        x = self._rng(split, layer, "activations").normal(size=(self.sizes[split], 24)) + 3
        x[:, :6] += self.labels(split)[:, None]
        x[self.has_artifact(split), 8:12] += 4.0 if layer == "late" else 0.7
        return x.astype(np.float32)

    def relevances(self, split, layer, pool):
        x = self._rng(split, layer, "relevances").normal(size=(self.sizes[split], 24)) + 1
        x[self.has_artifact(split), 8:12] += 6.0 if layer == "late" else 0.5
        return x.astype(np.float32)

    def stored(self, split, key):
        what, *where = key.split("/")
        return getattr(self, what)(split, *where)

    def heatmaps(self, split):
        return self._rng(split, "heatmaps").normal(size=(self.sizes[split], 8, 8)).astype(np.float32)

    def logits(self, split):
        return np.eye(3, dtype=np.float32)[self.labels(split)]

    def targets(self, split):
        return self.labels(split)

    def truth(self, *splits):
        tables = [
            pd.DataFrame({"sample_id": self.sample_ids(s), "class": self.labels(s), "artifact": self.has_artifact(s)})
            for s in splits
        ]
        return pd.concat(tables, ignore_index=True)


@pytest.fixture
def latents():
    return FakeLatents()


@pytest.fixture
def clean_latents():
    return FakeLatents(rate=0.0)


@pytest.fixture
def throughout():
    return FakeLatents(rate=1.0)
