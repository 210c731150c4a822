"""Several artifacts one after another: each is fitted and corrected on the model that the one before has left."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from xai_robustness.concepts.cav import Cavs, fit_cav
from xai_robustness.mitigation.base import METHODS, Candidate, Corrected, Material, Method, label_of, layers_of
from xai_robustness.mitigation.directions import absent_labels, activations, scope
from xai_robustness.mitigation.params import IterativeParams, LayerParams, MitigationParams
from xai_robustness.models.insertions import INSERTIONS
from xai_robustness.models.taps import pool
from xai_robustness.models.zoo import layer_names

Prepare = Callable[[nn.Sequential], Material | None]
GONE = 1e-3
"""An artifact that moves no mean feature by more than this share of the largest spread is gone already."""


def correct_in_turn(method: Method, candidate: Candidate, model: nn.Sequential, rounds: Iterable[Prepare]) -> Corrected:
    """Correct a model once a round, each round on what the one before has left.

    Args:
        method: the method of every round.
        candidate: what is to be made; in each round its layer is the last stage that was inserted after it.
        model: the given classifier; not changed.
        rounds: model -> material for it, as the next artifact's vectors and masks fitted on that model; None where
            nothing of that artifact is left, which skips the round.

    Returns:
        The outcome of the last round, with the histories of all, or of the first round that failed.
    """
    current, history, collapsed = copy.deepcopy(model).eval(), [], None
    for number, prepare in enumerate(rounds):
        material = prepare(current)
        if material is None:
            continue
        here = replace(candidate, layer=last_inserted(current, candidate.layer) if candidate.layer else None)
        (found,) = method.correct([here], material)
        history += [{**record, "round": number + 1} for record in found.history]
        collapsed = found.collapsed
        if found.model is None:
            return Corrected(candidate, None, f"in round {number + 1}: {found.stopped}", None, tuple(history))
        current = found.model
    return Corrected(candidate, current, None, collapsed, tuple(history))


def last_inserted(model: nn.Sequential, layer: str) -> str:
    """The last of the insertions that follow a layer at once, or the layer itself."""
    found = layer
    parent = layer.rpartition(".")[0]
    beside = [name for name in layer_names(model) if name.rpartition(".")[0] == parent]
    for before, after in pairwise(beside):
        if before == found and type(model.get_submodule(after)).__name__ in INSERTIONS:
            found = after
    return found


@METHODS.register("iterative")
class Iterative(Method):
    """Every class with a confirmed artifact in turn, `rounds` times over, by one base method [Pahde2023].

    The vectors are fitted at the layer on the current model's activations of the labelled training images, behind what
    earlier rounds inserted there.
    """

    name = "iterative"
    params: IterativeParams

    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """Every layer, with every strength where the base method has one."""
        if not self.params.enabled:
            return []
        name = f"{self.name}_{self.params.base}"
        strengths = (None,) if self.params.base == "p_clarc" else self.params.lambdas
        pairs = [(layer, s) for layer in layers_of(self.params, layers) for s in strengths]
        return [Candidate(label_of(name, la, s), self.name, la, s, self.params.cav) for la, s in pairs]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs labelled training images."""
        return absent_labels(material)

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Make the candidates one by one."""
        for candidate in candidates:
            yield correct_in_turn(
                self.method(), candidate, material.model, self.rounds(candidate.layer or "", material)
            )

    def method(self) -> Method:
        """The method of every round, with the parameters that it shares with this one."""
        group: type[LayerParams] = MitigationParams.model_fields[self.params.base].default_factory  # type: ignore[assignment]
        shared = {
            name: getattr(self.params, name) for name in group.model_fields if name in type(self.params).model_fields
        }
        return METHODS[self.params.base](group(**shared))

    def rounds(self, layer: str, material: Material) -> list[Prepare]:
        """One preparation a class with an artifact, repeated."""
        labels, artifact = material.train.labels, material.artifact
        assert artifact is not None
        parts = [artifact] if labels.ndim > 1 else [artifact & (labels == c) for c in np.unique(labels[artifact])]
        return [
            self._prepare(layer, replace(material, artifact=part, cache=None)) for part in parts
        ] * self.params.rounds

    def _prepare(self, layer: str, material: Material) -> Prepare:
        def prepare(model: nn.Sequential) -> Material | None:
            at = last_inserted(model, layer)
            current = replace(material, model=model)
            rows, artifact = scope(current)
            features = torch.cat([pool(part, "max") for part in activations(at, current, rows)]).double().numpy()
            if np.abs(features[artifact].mean(0) - features[~artifact].mean(0)).max() <= GONE * features.std(0).max():
                return None
            found = [fit_cav(features, artifact, kind, at) for kind in self.params.kinds]
            return replace(current, cavs=Cavs(tuple(found)))

        return prepare
