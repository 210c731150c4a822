"""Class artifact compensation: RR-ClArC trains, P-ClArC and reactive P-ClArC project."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.concepts.cav import Cavs
from xai_robustness.mitigation.base import (
    METHODS,
    Candidate,
    Corrected,
    Material,
    Method,
    label_of,
    layers_of,
)
from xai_robustness.mitigation.finetune import Penalty, Step, finetune
from xai_robustness.mitigation.params import PClarcParams, ReactivePClarcParams, RrClarcParams
from xai_robustness.mitigation.penalties import AGGREGATIONS, CRITERIA, random_signs
from xai_robustness.models.insertions import Projection
from xai_robustness.models.taps import Pooling
from xai_robustness.models.zoo import insert_after
from xai_robustness.randomness import torch_rng
from xai_robustness.types import InputError

STAGE = "projection"
"""Name of the stage that P-ClArC inserts after its layer."""


class GradientPenalty(Penalty):
    """RR-ClArC's penalty: the gradient of the logits at a layer, compared to a concept direction [Dreyer2023].

    Args:
        vector: v, float (K,), of length 1.
        criterion: what the gradient explains, a name of CRITERIA.
        aggregation: how gradient and direction are compared, a name of AGGREGATIONS.
        seed: run seed; random signs come from the stream "signs" of each epoch and batch.
    """

    def __init__(
        self,
        vector: Float[Tensor, " k"],
        criterion: str = "all_logits_random",
        aggregation: str = "l2_mean",
        seed: int = 0,
    ) -> None:
        self.vector = vector
        self.criterion = CRITERIA[criterion]
        self.aggregation = AGGREGATIONS[aggregation]
        self.seed = seed

    def __call__(self, model: nn.Module, step: Step) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        """Logits and penalty of a batch of activations; the gradient is taken sample by sample."""
        inputs = step.inputs.detach().requires_grad_()
        logits = model(inputs)
        signs = random_signs(logits.shape, torch_rng(self.seed, "mitigation", "signs", step.epoch, step.number))
        explained = self.criterion(logits, step.labels, signs.to(logits)).sum()
        (gradients,) = torch.autograd.grad(explained, inputs, create_graph=True)
        return logits, self.aggregation(gradients, self.vector.to(gradients))


@METHODS.register("rr_clarc")
class RrClarc(Method):
    """Fine-tuning after a layer with `GradientPenalty`, all strengths of a layer in lockstep [Dreyer2023]."""

    name = "rr_clarc"
    params: RrClarcParams

    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """Every layer with every strength."""
        if not self.params.enabled:
            return []
        pairs = [(layer, strength) for layer in layers_of(self.params, layers) for strength in self.params.lambdas]
        return [Candidate(label_of(self.name, la, s), self.name, la, s, self.params.cav) for la, s in pairs]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs the concept vector of its layer."""
        return _missing(material.cavs, candidate.layer, self.params.cav)

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Fine-tune, layer by layer."""
        params = self.params
        for layer, group in groupby(candidates, key=lambda candidate: candidate.layer):
            vector = torch.from_numpy(material.cavs.find(layer or "", params.cav).vector)
            penalty = GradientPenalty(vector, params.criterion, params.aggregation, material.seed)
            yield from finetune(list(group), material, params, penalty)


@METHODS.register("p_clarc")
class PClarc(Method):
    """Move every sample's activations to the mean score of clean samples; nothing is trained [Anders2022]."""

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
        """A candidate needs the concept vector of its layer."""
        return _missing(material.cavs, candidate.layer, self.params.cav)

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Insert a projection after each layer of a copy of the model."""
        for candidate in candidates:
            layer = candidate.layer or ""
            model = insert_after(material.model, layer, self.projection(layer, material.cavs), STAGE)
            yield Corrected(candidate, model.eval())

    def projection(self, layer: str, cavs: Cavs) -> Projection:
        """The stage to insert: pooled scores move to the mean score of clean samples."""
        cav = cavs.find(layer, self.params.cav)
        return Projection(torch.from_numpy(cav.vector), cav.mean_clean, pooling=_pooling(cav.pool))


@METHODS.register("reactive_p_clarc")
class ReactivePClarc(PClarc):
    """P-ClArC for the samples alone that a second concept vector, with its intercept, calls artifacts [Bareeva2024]."""

    name = "reactive_p_clarc"
    params: ReactivePClarcParams  # type: ignore[assignment]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs both concept vectors of its layer."""
        missing = super().absence(candidate, material)
        return missing or _missing(material.cavs, candidate.layer, self.params.condition)

    def projection(self, layer: str, cavs: Cavs) -> Projection:
        """The stage to insert, with its condition."""
        cav, decides = cavs.find(layer, self.params.cav), cavs.find(layer, self.params.condition)
        return Projection(
            torch.from_numpy(cav.vector),
            cav.mean_clean,
            torch.from_numpy(decides.vector),
            decides.intercept,
            pooling=_pooling(cav.pool),
        )


def _pooling(name: str) -> Pooling:
    return "mean" if name == "mean" else "max"


def _missing(cavs: Cavs, layer: str | None, kind: str) -> str | None:
    try:
        cavs.find(layer or "", kind)
    except InputError as error:
        return str(error)
    return None
