"""Images made for every neuron, DORA's synthetic references, kept so that they can be looked at [Bykov2023]."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import zarr
from jaxtyping import Bool, Float, UInt8
from torch import nn

from xai_robustness.chunks import ArraysJob, ChunkStream, Rows
from xai_robustness.concepts.dora import synthesize
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import pool, tap

CHUNK = 16
"""Neurons whose images are made and stored at once."""


def synthesis_job(
    model: nn.Sequential,
    sizes: Mapping[str, int],
    count: int,
    image_shape: tuple[int, int, int],
    seed: int,
    device: str,
) -> ArraysJob:
    """A lazy, resumable job that makes images for every neuron of some layers (see `dora.synthesize`).

    Args:
        model: classifier.
        sizes: layer -> its number of neurons K; no layer, nothing is made.
        count: images R of each neuron.
        image_shape: (C,H,W).
        seed: the run's seed.
        device: where to compute.

    Returns:
        One group a layer: `images` uint8 (K,R,C,H,W); `activations` float32 (K,R,K), what every neuron of the layer
        answers to them before rounding, mean over positions; `converged` bool (K,R). `SyntheticReferences` reads it.
    """
    streams = {
        layer: ChunkStream(size, _Compute(model, layer, count, image_shape, seed, device), CHUNK)
        for layer, size in sizes.items()
    }
    return ArraysJob(streams, description="make images for neurons")


@dataclass(frozen=True, eq=False)
class _Compute:
    """Images of some neurons of one layer."""

    model: nn.Sequential
    layer: str
    count: int
    image_shape: tuple[int, int, int]
    seed: int
    device: str

    def __call__(self, start: int, stop: int) -> Rows:
        model, neurons = self.model.to(self.device), np.arange(start, stop)
        images, _, converged = synthesize(model, self.layer, neurons, self.image_shape, self.seed, self.count)
        parts = []
        with borrow(model), tap(model, [self.layer]) as outputs, torch.no_grad():
            for own in images:
                model(torch.from_numpy(own).to(self.device))
                parts.append(pool(outputs[self.layer], "mean").cpu().numpy())
        kept = np.round(255 * images).astype(np.uint8)
        return {"images": kept, "activations": np.stack(parts).astype(np.float32), "converged": converged}


@dataclass(frozen=True)
class SyntheticReferences:
    """Reader of what `synthesis_job` has written; arrays are read when asked for."""

    root: zarr.Group

    def images(self, layer: str, neuron: int) -> UInt8[np.ndarray, "r h w c"] | None:
        """Images of a neuron; None where none were made."""
        found = self.root.get(f"{layer}/images")
        return np.moveaxis(np.asarray(found[neuron]), 1, -1) if isinstance(found, zarr.Array) else None

    def vectors(self, layer: str) -> Float[np.ndarray, "k k"]:
        """Representation activation vectors: row i holds the mean activation of every neuron on the images of i."""
        return np.asarray(self.root[f"{layer}/activations"], np.float64).mean(1)

    def converged(self, layer: str) -> Bool[np.ndarray, "k r"]:
        """Which images converged."""
        return np.asarray(self.root[f"{layer}/converged"], bool)
