"""The directions that a correction works along: concept vectors of a layer, or one of its flattened activation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xai_robustness.concepts.cav import Cavs
from xai_robustness.mitigation.base import Material
from xai_robustness.mitigation.params import LayerParams
from xai_robustness.models.modes import borrow
from xai_robustness.models.zoo import split
from xai_robustness.types import InputError


@dataclass(frozen=True)
class Directions:
    """Directions of one layer.

    Attributes:
        vectors: float32 (M,K), rows of length 1; (1,K P) for full features.
        mean_clean: mean score of clean samples along each, (M,).
        mean_artifact: mean score of samples with the artifact, (M,).
        pooling: max or mean, or none for full features.
    """

    vectors: Float[Tensor, "m k"]
    mean_clean: Float[Tensor, " m"]
    mean_artifact: Float[Tensor, " m"]
    pooling: str


def directions_at(layer: str, material: Material, params: LayerParams) -> Directions:
    """The directions that the parameters name, at a layer."""
    if params.features == "full":
        return _full(layer, material)
    found = [material.cavs.find(layer, kind) for kind in params.kinds]
    return Directions(
        torch.stack([torch.from_numpy(cav.vector) for cav in found]),
        torch.tensor([cav.mean_clean for cav in found]),
        torch.tensor([cav.mean_artifact for cav in found]),
        "mean" if found[0].pool == "mean" else "max",
    )


def absent_direction(layer: str, material: Material, params: LayerParams) -> str | None:
    """Why there is no direction at a layer, or None."""
    if params.features == "full":
        return absent_labels(material)
    return next((why for kind in params.kinds if (why := missing(material.cavs, layer, kind))), None)


def missing(cavs: Cavs, layer: str, kind: str) -> str | None:
    """Why there is no concept vector of a kind at a layer, or None."""
    try:
        cavs.find(layer, kind)
    except InputError as error:
        return str(error)
    return None


def absent_labels(material: Material) -> str | None:
    """Why there are no labelled samples to compare, or None."""
    if material.artifact is None or not material.artifact.any():
        return "There is no training image labelled as carrying an artifact, since none was confirmed."
    _, artifact = scope(material)
    return None if (~artifact).sum() >= 2 else "There is no training image of the class without the artifact."


def scope(material: Material) -> tuple[Int64[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Rows of the training images of classes with an artifact (all, for multi-label tasks), and which carry it."""
    artifact, labels = material.artifact, material.train.labels
    assert artifact is not None
    rows = np.arange(len(labels))
    if labels.ndim == 1:
        rows = np.flatnonzero(np.isin(labels, np.unique(labels[artifact])))
    return rows, artifact[rows]


def activations(layer: str, material: Material, rows: Int64[np.ndarray, " m"], size: int = 256) -> Iterator[Tensor]:
    """Activations of training images at a layer, batch by batch, from the cache where they are kept."""
    kept = material.cache.find("train", material.train, layer) if material.cache else None
    prefix, _ = split(material.model.to(material.device), layer)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        if kept is not None:
            yield kept.take(part)
            continue
        with borrow(material.model), torch.no_grad():
            found = prefix(material.train.tensor(part).to(material.device)).cpu()
        yield found


def _full(layer: str, material: Material) -> Directions:
    """Difference of the mean flattened activations, from one pass over the labelled training images."""
    rows, artifact = scope(material)
    sums: list[Tensor] = []
    start = 0
    for part in activations(layer, material, rows):
        flat, carries = part.flatten(1).double(), torch.from_numpy(artifact[start : start + len(part)])
        found = [flat[~carries].sum(0), flat[carries].sum(0)]
        sums = found if not sums else [a + b for a, b in zip(sums, found)]
        start += len(part)
    clean, attacked = sums[0] / int((~artifact).sum()), sums[1] / int(artifact.sum())
    length = torch.linalg.vector_norm(attacked - clean)
    if not bool(length > 0):
        raise InputError(
            f"The activations of layer '{layer}' must differ between samples with and without the artifact."
        )
    vector = (attacked - clean) / length
    scores = torch.stack([vector @ clean, vector @ attacked]).float()
    return Directions(vector.float()[None], scores[:1], scores[1:], "none")
