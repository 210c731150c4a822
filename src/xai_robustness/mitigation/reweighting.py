"""Fine-tuning with other weights of the samples: Group DRO by known groups, JTT by the errors of a young model."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xai_robustness.mitigation.base import METHODS, Candidate, Corrected, Material, Method, label_of
from xai_robustness.mitigation.dfr import group_ids
from xai_robustness.mitigation.directions import absent_labels
from xai_robustness.mitigation.finetune import finetune, make_optimizer
from xai_robustness.mitigation.objectives import Objective, Step, Strand
from xai_robustness.mitigation.params import GroupDroParams, JttParams
from xai_robustness.mitigation.penalties import sample_losses
from xai_robustness.models.inputs import in_memory
from xai_robustness.models.objective import Loss, loss_for
from xai_robustness.models.training import predict_logits
from xai_robustness.randomness import seed_for, torch_rng


class ById:
    """A value a training sample, found by sample id.

    Args:
        sample_ids: int64 (N,), each once.
        values: (N,).
    """

    def __init__(self, sample_ids: Int64[np.ndarray, " n"], values: np.ndarray) -> None:
        self.order = np.argsort(sample_ids)
        self.sample_ids, self.values = sample_ids[self.order], np.asarray(values)[self.order]

    def of(self, sample_ids: Int64[np.ndarray, " b"]) -> Tensor:
        """Values of a batch."""
        return torch.from_numpy(self.values[np.searchsorted(self.sample_ids, sample_ids)])


class WorstGroups(Objective):
    """Group DRO's loss: group losses, weighted by how large they have been [Sagawa2020].

    After each batch the weight of a group in it grows by exp(strength x its mean loss), all weights summing to 1; the
    weighted sum of the group losses is minimised. Strength 0 keeps the weights equal.

    Args:
        groups: group of every training sample, from 0.
    """

    def __init__(self, groups: ById) -> None:
        self.groups = groups
        self.count = int(groups.values.max()) + 1
        self.weights: dict[str, Float[Tensor, " g"]] = {}

    def __call__(self, strand: Strand, step: Step, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sum of the group losses, mean loss, and largest group loss."""
        losses = sample_losses(strand.trained(step.inputs), step.labels)
        members = torch.nn.functional.one_hot(self.groups.of(step.sample_ids).to(losses.device), self.count).to(losses)
        sizes = members.sum(0)
        means = (losses @ members) / sizes.clamp_min(1)
        name = strand.candidate.name
        weights = self.weights.get(name, torch.full_like(means, 1 / self.count).detach())
        weights = weights * torch.exp((strand.candidate.strength or 0.0) * means.detach())
        weights = weights / weights.sum()
        self.weights[name] = weights
        return weights @ means, losses.mean(), means.max()


class Upweighted(Objective):
    """JTT's loss: mean over the samples, those of the error set counting `strength` times [Liu2021].

    Args:
        errors: whether each training sample is in the error set.
    """

    def __init__(self, errors: ById) -> None:
        self.errors = errors

    def __call__(self, strand: Strand, step: Step, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted mean, plain mean, and mean over the error set."""
        losses = sample_losses(strand.trained(step.inputs), step.labels)
        wrong = self.errors.of(step.sample_ids).to(losses)
        weights = 1 + ((strand.candidate.strength or 0.0) - 1) * wrong
        value = (weights * losses).sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)
        return value, losses.mean(), (wrong * losses).sum() / wrong.sum().clamp_min(1)


@METHODS.register("group_dro")
class GroupDro(Method):
    """Fine-tuning of the whole model with `WorstGroups`; groups are classes with and without the artifact."""

    name = "group_dro"
    params: GroupDroParams

    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """Every step size of the weights."""
        strengths = self.params.lambdas if self.params.enabled else ()
        return [Candidate(label_of(self.name, None, s), self.name, None, s) for s in strengths]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs labelled training images."""
        return absent_labels(material)

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Fine-tune copies of the model."""
        assert material.artifact is not None
        labels = material.train.labels
        classes = labels if labels.ndim == 1 else labels @ (1 << np.arange(labels.shape[1]))
        groups = ById(material.train.sample_ids, group_ids(classes, material.artifact))
        yield from finetune(list(candidates), material, self.params, WorstGroups(groups))


@METHODS.register("jtt")
class Jtt(GroupDro):
    """Just train twice: a model that was trained shortly names the hard samples, which then weigh more [Liu2021].

    The identification model has the architecture of the given one and new weights; the given model is fine-tuned. No
    artifact label is used. Samples are weighted in the loss where the paper repeats them.
    """

    name = "jtt"
    params: JttParams  # type: ignore[assignment]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs nothing but training images."""
        return None

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Find the error set, then fine-tune copies of the model."""
        errors = error_set(material, self.params)
        if not errors.any():
            reason = "the identification model makes no error on training images: give it fewer epochs"
            yield from (Corrected(candidate, None, reason) for candidate in candidates)
            return
        objective = Upweighted(ById(material.train.sample_ids, errors))
        yield from finetune(list(candidates), material, self.params, objective)


def error_set(material: Material, params: JttParams) -> Bool[np.ndarray, " n"]:
    """Training samples that a freshly initialised, shortly trained copy of the model gets wrong, (N,)."""
    train, device = in_memory(material.train), torch.device(material.device)
    model = reinitialised(material.model, material.seed).to(device).train()
    optimizer = make_optimizer(list(model.parameters()), params.identification())
    loss = loss_for(train.info.task, train.labels, train.info.n_classes, False, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(material.seed, "mitigation", "jtt", "dropout"))
        for epoch in range(params.identification_epochs):
            order = torch.randperm(len(train), generator=torch_rng(material.seed, "mitigation", "jtt", epoch)).numpy()
            for rows in np.array_split(order, max(1, len(order) // params.batch_size)):
                optimizer.zero_grad(set_to_none=True)
                labels = torch.from_numpy(train.labels[rows]).to(device)
                loss(model(train.tensor(rows).to(device)), labels).backward()
                optimizer.step()
    logits = predict_logits(model.eval(), train, 256, device)
    if train.labels.ndim == 2:
        return ((logits > 0) != train.labels).any(1)
    return logits.argmax(1) != train.labels


def reinitialised(model: nn.Sequential, seed: int) -> nn.Sequential:
    """A copy with new weights and statistics, drawn from the stream "jtt/init"."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "mitigation", "jtt", "init"))
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return fresh.requires_grad_(True)
