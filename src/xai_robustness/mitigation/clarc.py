"""Class artifact compensation that trains what follows a layer: RR-ClArC and A-ClArC."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.mitigation.base import (
    METHODS,
    Candidate,
    Corrected,
    Material,
    Method,
    label_of,
    layers_of,
)
from xai_robustness.mitigation.directions import absent_direction, directions_at
from xai_robustness.mitigation.finetune import finetune
from xai_robustness.mitigation.objectives import Objective, Penalised, Penalty, Step, Strand
from xai_robustness.mitigation.params import AClarcParams, RrClarcParams
from xai_robustness.mitigation.penalties import AGGREGATIONS, CRITERIA, random_signs
from xai_robustness.models.insertions import SubspaceProjection
from xai_robustness.models.objective import Loss
from xai_robustness.randomness import torch_rng


class GradientPenalty(Penalty):
    """RR-ClArC's penalty: the gradient of the logits at a layer, compared to a concept direction [Dreyer2023].

    Args:
        vector: v, float (K,), of length 1; or several of them (M,K), over which the comparison is averaged.
        criterion: what the gradient explains, a name of CRITERIA.
        aggregation: how gradient and direction are compared, a name of AGGREGATIONS.
        seed: run seed; random signs come from the stream "signs" of each epoch and batch.
        full: whether the vectors are directions of the flattened activation.
    """

    def __init__(
        self,
        vector: Float[Tensor, "*m k"],
        criterion: str = "all_logits_random",
        aggregation: str = "l2_mean",
        seed: int = 0,
        full: bool = False,
    ) -> None:
        self.vectors = vector.reshape(-1, vector.shape[-1])
        self.full = full
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
        gradients = gradients.flatten(1) if self.full else gradients
        found = [self.aggregation(gradients, vector) for vector in self.vectors.to(gradients)]
        return logits, torch.stack(found).mean()


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
        return absent_direction(candidate.layer or "", material, self.params)

    def cached_layers(self, candidates: Sequence[Candidate]) -> set[str]:
        """The layers of the candidates."""
        return {candidate.layer for candidate in candidates if candidate.layer}

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Fine-tune, layer by layer."""
        for layer, group in groupby(candidates, key=lambda candidate: candidate.layer):
            yield from finetune(list(group), material, self.params, self.objective(layer or "", material))

    def objective(self, layer: str, material: Material) -> Objective:
        """The penalised loss of a layer."""
        params = self.params
        direction = directions_at(layer, material, params)
        vectors = direction.vectors if len(direction.vectors) == 1 else torch.linalg.qr(direction.vectors.T)[0].T
        full = direction.pooling == "none"
        return Penalised(GradientPenalty(vectors, params.criterion, params.aggregation, material.seed, full))


class AugmentedLoss(Objective):
    """A-ClArC's loss: the classification loss on activations that were moved to the artifact's mean [Anders2022].

    a' = a + strength (mean score of artifact samples - v.pool(a)) v, for a share of the samples of each batch.

    Args:
        vectors: directions v, float (M,K), or (1,K P) for full features.
        targets: mean scores of the artifact samples, (M,).
        pooling: max, mean, or none (full features).
        share: share of each batch that is moved.
        seed: run seed; the samples are drawn from the stream "a_clarc" of each epoch and batch.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "m k"],
        targets: Float[Tensor, " m"],
        pooling: str = "max",
        share: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.move = SubspaceProjection(vectors, targets, pooling=pooling)
        self.share, self.seed = share, seed

    def __call__(self, strand: Strand, step: Step, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Loss on moved activations; the second part is the mean length of the move."""
        shift = (self.move.to(step.inputs.device)(step.inputs) - step.inputs) * (strand.candidate.strength or 0.0)
        if self.share < 1:
            generator = torch_rng(self.seed, "mitigation", "a_clarc", step.epoch, step.number)
            drawn = torch.rand(len(step.inputs), generator=generator).to(shift) < self.share
            shift = shift * drawn.reshape(-1, *[1] * (shift.ndim - 1))
        fit = loss(strand.trained(step.inputs + shift), step.labels)
        return fit, fit, shift.flatten(1).norm(dim=1).mean()


@METHODS.register("a_clarc")
class AClarc(RrClarc):
    """Fine-tuning after a layer with `AugmentedLoss`; the model that comes out has no extra stage [Anders2022]."""

    name = "a_clarc"
    params: AClarcParams  # type: ignore[assignment]

    def objective(self, layer: str, material: Material) -> Objective:
        """The loss on moved activations."""
        params = self.params
        found = directions_at(layer, material, params)
        return AugmentedLoss(found.vectors, found.mean_artifact, found.pooling, params.share, material.seed)
