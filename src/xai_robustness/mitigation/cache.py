"""Activations of the layers that no correction changes: computed once, kept on disk, shared by all candidates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xai_robustness.datasets.base import ImageSet
from xai_robustness.models.inputs import flip
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import tap
from xai_robustness.models.zoo import layer_names, split
from xai_robustness.progress import progress

VIEWS = ((False, False), (True, False), (False, True), (True, True))
"""Mirrored left to right, top to bottom: the four views that flips make of an image."""


@dataclass(frozen=True)
class Activations:
    """Activations of one layer for one image set, on disk, a memory map a view.

    Attributes:
        views: float32 (N,K,…) of the views of VIEWS, the first alone where images are not flipped.
    """

    views: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.views[0])

    def take(self, rows: np.ndarray | slice, flips: Bool[Tensor, "b 2"] | None = None) -> Float[Tensor, "b k ..."]:
        """Activations of `rows`, each in the view that its flips ask for."""
        if flips is None:
            return torch.from_numpy(np.array(self.views[0][rows]))
        wanted = flips.numpy() @ np.array([1, 2])
        found = np.empty((len(wanted), *self.views[0].shape[1:]), np.float32)
        numbers = np.arange(len(self))[rows]
        for view, array in enumerate(self.views):
            found[wanted == view] = array[numbers[wanted == view]]
        return torch.from_numpy(found)


class ActivationCache:
    """Activations of a model's layers, computed in one pass an image set when first asked for.

    Layers that would not fit into `limit` bytes, the largest first, are left out: `find` gives None for them and the
    caller computes them batch by batch.

    Args:
        model: the given classifier; the layers are those before which no candidate changes it.
        layers: layers that candidates work at.
        folder: where the memory maps go; emptied by its owner.
        device: where to compute.
        batch_size: images at once.
        limit: most bytes on disk for one image set.
    """

    def __init__(
        self,
        model: nn.Sequential,
        layers: Sequence[str],
        folder: Path,
        device: str = "cpu",
        batch_size: int = 256,
        limit: int = 8 * 2**30,
    ) -> None:
        order = layer_names(model)
        self.model, self.layers = model, sorted(set(layers), key=order.index)
        self.folder, self.device, self.batch_size, self.limit = folder, device, batch_size, limit
        self._found: dict[tuple[str, bool], Mapping[str, Activations]] = {}

    def find(self, key: str, images: ImageSet, layer: str, flips: bool = False) -> Activations | None:
        """Activations of a layer, or None where they are not kept.

        Args:
            key: name of the image set.
            images: the image set.
            layer: one of the layers.
            flips: whether all four VIEWS are needed.
        """
        if (key, flips) not in self._found:
            self._found[key, flips] = self._compute(key, images, VIEWS if flips else VIEWS[:1])
        return self._found[key, flips].get(layer)

    def _compute(self, key: str, images: ImageSet, views: Sequence[tuple[bool, bool]]) -> dict[str, Activations]:
        shapes = self._shapes(images, len(views))
        if not shapes:
            return {}
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {
            layer: [
                np.lib.format.open_memmap(
                    self.folder / f"{key.replace('/', '.')}-{len(views)}-{layer}-{view}.npy",
                    mode="w+",
                    dtype=np.float32,
                    shape=(len(images), *shape),
                )
                for view in range(len(views))
            ]
            for layer, shape in shapes.items()
        }
        prefix, _ = split(self.model.to(self.device), list(shapes)[-1])
        bar = progress(len(images) * len(views), f"activations of {key}")
        with borrow(self.model), tap(prefix, list(shapes)) as outputs, torch.no_grad(), bar:
            for batch in images.batches(self.batch_size):
                for view, mirrored in enumerate(views):
                    draws = torch.tensor([mirrored]).expand(len(batch.rows), 2)
                    prefix(flip(batch.images.clone(), draws).to(self.device))
                    for layer, arrays in kept.items():
                        arrays[view][batch.rows] = outputs[layer].cpu().numpy()
                    bar.update(len(batch.rows))
        return {layer: Activations(arrays) for layer, arrays in kept.items()}

    def _shapes(self, images: ImageSet, n_views: int) -> dict[str, tuple[int, ...]]:
        """Shape (K,…) of the layers that are kept, in order of execution; the largest are left out first."""
        with borrow(self.model), tap(self.model.to(self.device), self.layers) as outputs, torch.no_grad():
            self.model(images.tensor(slice(0, 1)).to(self.device))
        shapes = {layer: tuple(outputs[layer].shape[1:]) for layer in self.layers}
        sizes = {layer: 4 * len(images) * n_views * math.prod(shape) for layer, shape in shapes.items()}
        while sizes and sum(sizes.values()) > self.limit:
            sizes.pop(max(sizes, key=lambda layer: sizes[layer]))
        return {layer: shapes[layer] for layer in sizes}
