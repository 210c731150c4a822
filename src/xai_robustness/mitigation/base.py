"""Corrections: what a candidate is, what a method gets, and what it gives back. The given model is never changed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int64
from torch import nn

from xai_robustness.concepts.cav import Cavs
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.mitigation.cache import ActivationCache
from xai_robustness.mitigation.params import MethodParams, MitigationParams
from xai_robustness.models.zoo import check_layer, inspected_layers
from xai_robustness.registry import Registry

REFERENCE = "vanilla"
"""Name of the candidate that is the uncorrected model itself."""


@dataclass(frozen=True)
class Candidate:
    """One corrected model of the grid.

    Attributes:
        name: unique in a grid, and a folder's name.
        method: name of the method in METHODS.
        layer: layer at which the method works; everything up to it is as in the given model. None: no such layer.
        strength: weight of the penalty, None for methods without one.
        cav: kind of the concept vector, None for methods without one.
    """

    name: str
    method: str
    layer: str | None = None
    strength: float | None = None
    cav: str | None = None


@dataclass(frozen=True)
class MaskTable:
    """Artifact masks by training sample; samples that are not in it have none.

    Attributes:
        sample_ids: int64 (M,), each once.
        masks: bool (M,H,W), a NumPy or Zarr array, predicted or true.
    """

    sample_ids: Int64[np.ndarray, " m"]
    masks: Any

    def __len__(self) -> int:
        return len(self.sample_ids)

    @classmethod
    def empty(cls) -> "MaskTable":
        """A table without any mask."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 1, 1), bool))

    def find(self, sample_ids: Int64[np.ndarray, " b"]) -> tuple[Int64[np.ndarray, " r"], Bool[np.ndarray, "r h w"]]:
        """Positions in `sample_ids` (R,) that have a mask which is not empty, and those masks (R,H,W)."""
        if len(self) == 0:
            return np.zeros(0, np.int64), np.zeros((0, *self.masks.shape[1:]), bool)
        order = np.argsort(self.sample_ids, kind="stable")
        at = np.searchsorted(self.sample_ids, sample_ids, sorter=order)
        rows = order[np.minimum(at, len(order) - 1)]
        positions = np.flatnonzero(self.sample_ids[rows] == sample_ids)
        masks = take(self.masks, rows[positions]).astype(bool)
        filled = masks.any(axis=(1, 2))
        return positions[filled], masks[filled]


@dataclass(frozen=True)
class Material:
    """All that a method may use; no clean and no attacked images.

    Attributes:
        model: the given classifier, in evaluation mode.
        train: biased training images.
        val: biased validation images, for the record of the fine-tuning; nothing is chosen on them.
        cavs: concept vectors; empty where no artifact was confirmed.
        masks: artifact masks of training samples; empty where there are none.
        seed: seed of the run.
        device: where to compute.
        artifact: bool (N,), which training images are labelled as carrying the artifact; None where none was confirmed.
        cache: activations of unchanged layers of the training ("train") and validation ("val") images, or None.
    """

    model: nn.Sequential
    train: ImageSet
    val: ImageSet
    cavs: Cavs
    masks: MaskTable
    seed: int = 0
    device: str = "cpu"
    artifact: Bool[np.ndarray, " n"] | None = None
    cache: ActivationCache | None = None


@dataclass(frozen=True)
class Corrected:
    """The outcome of one candidate.

    Attributes:
        candidate: which one.
        model: the corrected classifier on the CPU in evaluation mode, or None if it failed.
        stopped: why it failed, or None.
        collapsed: whether it predicts one class for every biased validation image; None if that was not looked at.
        history: one record an epoch, for methods that train.
    """

    candidate: Candidate
    model: nn.Sequential | None
    stopped: str | None = None
    collapsed: bool | None = None
    history: Sequence[dict[str, float]] = field(default_factory=tuple)


class Method(ABC):
    """A way to correct a classifier.

    Args:
        params: its part of the MitigationParams.
    """

    name: ClassVar[str]

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """The candidates of the method's grid.

        Args:
            layers: the inspected layers, for a grid that names none.
        """

    @abstractmethod
    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """Why this candidate cannot be made from the material, or None."""

    def at(self, candidate: Candidate, model: nn.Sequential) -> Candidate:
        """The candidate with what only the model tells, as a layer that is not chosen."""
        return candidate

    def cached_layers(self, candidates: Sequence[Candidate]) -> set[str]:
        """Layers whose activations of training images the method needs for these candidates; none by default."""
        return set()

    @abstractmethod
    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Make the candidates; the outcome of each is the same whichever others are asked for."""


METHODS: Registry[type[Method]] = Registry("method")


def methods_of(params: MitigationParams) -> list[Method]:
    """The methods of a study, enabled or not, in the order of the report."""
    return [METHODS[name](value) for name, value in params.methods().items()]


def candidates(params: MitigationParams, layers: Sequence[str]) -> list[Candidate]:
    """Every candidate of a study, the reference first.

    Args:
        params: the grid.
        layers: the inspected layers, for methods that name none.
    """
    return [candidate for method in methods_of(params) for candidate in method.candidates(layers)]


def grid(params: MitigationParams, model: nn.Sequential) -> list[Candidate]:
    """`candidates` for a model, with all layers checked; raises InputError that lists the layers there are."""
    for layer in params.all_layers():
        check_layer(model, layer)
    layers = inspected_layers(model) if _needs_layers(params) else ()
    return [method.at(candidate, model) for method in methods_of(params) for candidate in method.candidates(layers)]


def _needs_layers(params: MitigationParams) -> bool:
    return any(method.enabled and method.grid_layers() == () for method in params.methods().values())


def layers_of(params: MethodParams, layers: Sequence[str]) -> tuple[str, ...]:
    """The layers that a method's parameters name, or the inspected ones."""
    return params.grid_layers() or tuple(layers)


def label_of(method: str, layer: str | None = None, strength: float | None = None) -> str:
    """Name of a candidate: method, layer and strength.

    Example:
        >>> label_of("rr_clarc", "layer2", 1e6)
        'rr_clarc-layer2-1e6'
    """
    parts = [method, layer, None if strength is None else _plain(strength)]
    return "-".join(part for part in parts if part is not None)


def _plain(strength: float) -> str:
    if strength != 0 and not 1e-3 <= strength < 1e4:
        mantissa, exponent = f"{strength:.15e}".split("e")
        return f"{float(mantissa):.12g}e{int(exponent)}"
    return f"{strength:.12g}"
