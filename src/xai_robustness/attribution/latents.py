"""The latents store: pooled activations and relevances, heatmaps and logits of a data set, from one pass."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Any

import numpy as np
import torch
import zarr
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from xai_robustness.attribution.heatmap import to_heatmap
from xai_robustness.attribution.lrp import Lrp, LrpResult
from xai_robustness.chunks import ArraysJob, ChunkStream, Rows
from xai_robustness.datasets.base import ImageSet
from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import Pooling, pool, tap
from xai_robustness.models.zoo import check_layer, inspected_layers
from xai_robustness.types import NEUTRAL, InputError, Params, Task

ACTIVATION_POOLS: tuple[Pooling, ...] = ("max", "mean")
RELEVANCE_POOLS: tuple[Pooling, ...] = ("sum", "max", "mean")
COMPOSITE = "epsilon_plus_flat"


class PreprocessingParams(Params):
    """Which layers the latents store covers, and how it is computed."""

    layers: list[str] = Field([], description="Layers to inspect; empty: the architecture's inspected layers.")
    batch_size: Annotated[int, NEUTRAL] = Field(64, ge=1, description="Images explained at once.")
    chunk: Annotated[int, NEUTRAL] = Field(256, ge=1, description="Samples stored as one chunk, the unit of resuming.")

    def resolve(self, model: nn.Sequential) -> tuple[str, ...]:
        """The layers, checked against a model; raises InputError with the choices."""
        return tuple(check_layer(model, layer) for layer in self.layers) or inspected_layers(model)


def latents_job(
    model: nn.Sequential,
    images: Mapping[str, ImageSet],
    params: PreprocessingParams,
    device: str | torch.device,
    fingerprint_of_model: str,
) -> ArraysJob:
    """A lazy job that writes the latents of several image sets; one LRP pass a batch gives everything.

    Args:
        model: classifier.
        images: `<split>/<condition>` -> images; these are the groups of the store.
        params: layers and sizes.
        device: where to compute; the model moves there when the first chunk is computed.
        fingerprint_of_model: kept in the attributes.

    Returns:
        Groups with `activations/<layer>/{max,mean}` and `relevances/<layer>/{sum,max,mean}` float32 (N,K), `heatmaps`
        float32 (N,H,W) signed, `logits` float32 (N,K), `labels`, `sample_ids`, `has_artifact` (where known), and
        `targets` int64 (N,), the explained class: the label; for multi-label tasks the positive label with the
        largest logit. Attributes: layers, layer_shapes, composite, model, units.

    Raises:
        InputError: unknown layer.
    """
    layers = params.resolve(model)
    streams = {
        key: ChunkStream(len(part), _Compute(model, part, layers, params.batch_size, device), params.chunk)
        for key, part in images.items()
    }
    attributes = {
        "layers": list(layers),
        "layer_shapes": layer_shapes(model, next(iter(images.values())).image_shape, layers),
        "composite": COMPOSITE,
        "model": fingerprint_of_model,
        "units": "relevance in units of the target logit",
    }
    return ArraysJob(streams, attributes, "explain")


def layer_shapes(model: nn.Sequential, image_shape: Sequence[int], layers: Sequence[str]) -> dict[str, list[int]]:
    """Shape (K,…) of each layer's output for images of shape (C,H,W), from one black image."""
    weight = next(model.parameters())
    image = torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype)
    with borrow(model), tap(model, layers) as outputs, torch.no_grad():
        model(image)
    return {layer: list(outputs[layer].shape[1:]) for layer in layers}


class _Compute:
    """Rows of one image set: called by `ArraysJob` chunk by chunk."""

    def __init__(
        self, model: nn.Sequential, images: ImageSet, layers: Sequence[str], batch_size: int, device: str | torch.device
    ) -> None:
        self.model, self.images, self.layers = model, images, layers
        self.batch_size, self.device = batch_size, device

    def __call__(self, start: int, stop: int) -> Rows:
        """All arrays of rows start:stop."""
        edges = range(start, stop, self.batch_size)
        with Lrp(self.model.to(self.device), COMPOSITE) as lrp:
            parts = [self._batch(lrp, slice(edge, min(edge + self.batch_size, stop))) for edge in edges]
        rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        kept = {"labels": self.images.labels, "sample_ids": self.images.sample_ids}
        if self.images.has_artifact is not None:
            kept["has_artifact"] = self.images.has_artifact
        return rows | {key: values[start:stop] for key, values in kept.items()}

    def _batch(self, lrp: Lrp, rows: slice) -> dict[str, np.ndarray]:
        labels = torch.from_numpy(self.images.labels[rows]).to(self.device)
        choose = partial(targets, labels=labels, task=self.images.info.task)
        found = lrp.run(self.images.tensor(rows).to(self.device), choose, self.layers)
        return _pooled(found) | {"targets": choose(found.logits).cpu().numpy()}


def targets(logits: Float[Tensor, "b k"], labels: Tensor, task: Task) -> Int64[Tensor, " b"]:
    """The class that is explained: the label (B,); of several labels (B,K) the positive one with the largest logit.

    A sample without any positive label is explained by its largest logit.
    """
    if task != "multi-label":
        return labels
    masked = logits.masked_fill(labels == 0, -torch.inf)
    return torch.where(labels.any(1), masked.argmax(1), logits.argmax(1))


def _pooled(found: LrpResult) -> dict[str, np.ndarray]:
    rows = {"heatmaps": to_heatmap(found.attribution), "logits": found.logits}
    for layer, activation in found.activations.items():
        rows |= {f"activations/{layer}/{how}": pool(activation, how) for how in ACTIVATION_POOLS}
        rows |= {f"relevances/{layer}/{how}": pool(found.relevances[layer], how) for how in RELEVANCE_POOLS}
    return {key: value.float().cpu().numpy() for key, value in rows.items()}


class Latents:
    """Reader of one or several latents stores of the same layers; arrays are read when asked for.

    Args:
        roots: the opened stores, with different image sets.
    """

    def __init__(self, *roots: zarr.Group) -> None:
        self.roots = roots

    def joined(self, other: "Latents") -> "Latents":
        """A reader of the image sets of both."""
        return Latents(*self.roots, *other.roots)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Layers in the store, in the model's order."""
        listed: Any = self.roots[0].attrs["layers"]
        return tuple(listed)

    @cached_property
    def model(self) -> str:
        """Fingerprint of the classifier that was explained."""
        return str(self.roots[0].attrs["model"])

    @property
    def sets(self) -> tuple[str, ...]:
        """`<split>/<condition>` of every image set in the stores, sorted."""
        groups = (item for root in self.roots for item in root.groups())
        return tuple(sorted(f"{split}/{name}" for split, group in groups for name, _ in group.groups()))

    def activations(
        self, split: str, layer: str, pool: str = "max", condition: str = "biased"
    ) -> Float[np.ndarray, "n k"]:
        """Activations pooled by max or mean over positions, float32 (N,K)."""
        return self._read(split, condition, f"activations/{layer}/{pool}")

    def relevances(
        self, split: str, layer: str, pool: str = "sum", condition: str = "biased"
    ) -> Float[np.ndarray, "n k"]:
        """Relevances pooled by sum, max or mean over positions, signed, not normalised, float32 (N,K)."""
        return self._read(split, condition, f"relevances/{layer}/{pool}")

    def stored(self, split: str, key: str, condition: str = "biased") -> zarr.Array:
        """An array that is read when sliced: `activations/<layer>/<pool>`, `relevances/<layer>/<pool>`, `heatmaps`."""
        path = f"{split}/{condition}/{key}"
        for root in self.roots:
            if path in root:
                found = root[path]
                assert isinstance(found, zarr.Array)
                return found
        raise InputError(
            f"The latents store must hold '{path}'. It has the sets {', '.join(self.sets)} "
            f"and the layers {', '.join(self.layers)}."
        )

    def heatmaps(self, split: str, condition: str = "biased") -> Float[np.ndarray, "n h w"]:
        """Input heatmaps, signed, float32 (N,H,W)."""
        return self._read(split, condition, "heatmaps")

    def logits(self, split: str, condition: str = "biased") -> Float[np.ndarray, "n k"]:
        """Logits, float32 (N,K)."""
        return self._read(split, condition, "logits")

    def labels(self, split: str, condition: str = "biased") -> np.ndarray:
        """Labels as trained, int64 (N,) or (N,L)."""
        return self._read(split, condition, "labels")

    def targets(self, split: str, condition: str = "biased") -> Int64[np.ndarray, " n"]:
        """Explained classes, int64 (N,)."""
        return self._read(split, condition, "targets")

    def sample_ids(self, split: str, condition: str = "biased") -> Int64[np.ndarray, " n"]:
        """Sample ids, int64 (N,)."""
        return self._read(split, condition, "sample_ids")

    def _read(self, split: str, condition: str, key: str) -> np.ndarray:
        return np.asarray(self.stored(split, key, condition)[:])
