"""Class artifact compensation without training: P-ClArC and reactive P-ClArC insert a projection after a layer."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from xai_robustness.mitigation.base import METHODS, Candidate, Corrected, Material, Method, label_of, layers_of
from xai_robustness.mitigation.directions import absent_direction, directions_at, missing
from xai_robustness.mitigation.params import PClarcParams, ReactivePClarcParams
from xai_robustness.models.insertions import Projection, SubspaceProjection
from xai_robustness.models.taps import Pooling
from xai_robustness.models.zoo import insert_after

STAGE = "projection"
"""Name of the stage that is inserted after the layer; a second one there is called projection2."""


@METHODS.register("p_clarc")
class PClarc(Method):
    """Move every sample's activations to the mean score of clean samples; nothing is trained [Anders2022].

    With several kinds of vectors, or full features, the move is the one of `SubspaceProjection`.
    """

    name = "p_clarc"
    params: PClarcParams

    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """Every layer."""
        if not self.params.enabled:
            return []
        return [
            Candidate(label_of(self.name, layer), self.name, layer, None, self.params.cav)
            for layer in layers_of(self.params, layers)
        ]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs the concept vectors of its layer."""
        return absent_direction(candidate.layer or "", material, self.params)

    def cached_layers(self, candidates: Sequence[Candidate]) -> set[str]:
        """The layers of the candidates where full features need the training images."""
        return {c.layer for c in candidates if c.layer} if self.params.features == "full" else set()

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Insert a projection after each layer of a copy of the model."""
        for candidate in candidates:
            layer = candidate.layer or ""
            name = _free_name(material.model, layer)
            yield Corrected(
                candidate, insert_after(material.model, layer, self.projection(layer, material), name).eval()
            )

    def projection(self, layer: str, material: Material) -> nn.Module:
        """The stage to insert: pooled scores move to the mean score of clean samples."""
        return self._projection(layer, material, None, 0.0)

    def _projection(
        self, layer: str, material: Material, condition: torch.Tensor | None, intercept: float
    ) -> nn.Module:
        params = self.params
        if params.features == "pooled" and not params.also:
            cav = material.cavs.find(layer, params.cav)
            pooling: Pooling = "mean" if cav.pool == "mean" else "max"
            return Projection(torch.from_numpy(cav.vector), cav.mean_clean, condition, intercept, pooling)
        found = directions_at(layer, material, params)
        return SubspaceProjection(found.vectors, found.mean_clean, condition, intercept, found.pooling)


@METHODS.register("reactive_p_clarc")
class ReactivePClarc(PClarc):
    """P-ClArC for the samples alone that a second concept vector, with its intercept, calls artifacts [Bareeva2024]."""

    name = "reactive_p_clarc"
    params: ReactivePClarcParams  # type: ignore[assignment]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs the concept vectors of its layer, that of the condition among them."""
        why = super().absence(candidate, material)
        return why or missing(material.cavs, candidate.layer or "", self.params.condition)

    def projection(self, layer: str, material: Material) -> nn.Module:
        """The stage to insert, with its condition."""
        decides = material.cavs.find(layer, self.params.condition)
        return self._projection(layer, material, torch.from_numpy(decides.vector), decides.intercept)


def _free_name(model: nn.Sequential, layer: str) -> str:
    container = model.get_submodule(layer.rpartition(".")[0]) if "." in layer else model
    taken = dict(container.named_children())
    names = [STAGE, *(f"{STAGE}{i}" for i in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)
