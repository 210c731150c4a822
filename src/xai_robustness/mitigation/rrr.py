"""Right for the right reasons: the input gradient is to keep away from the artifact's mask."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xai_robustness.mitigation.base import METHODS, Candidate, Corrected, MaskTable, Material, Method, label_of
from xai_robustness.mitigation.finetune import Penalty, Step, finetune
from xai_robustness.mitigation.params import RrrParams
from xai_robustness.mitigation.penalties import CRITERIA, random_signs
from xai_robustness.randomness import torch_rng


class MaskPenalty(Penalty):
    """RRR's penalty: cosine of the input gradient's heatmap and the mask, after [Ross2017].

    The heatmap is |sum over channels of the gradient of the explained logits|. The mean runs over all samples of the
    batch; a sample without a mask counts 0 and costs no second derivative.

    Args:
        masks: artifact masks by training sample.
        criterion: what the gradient explains, a name of CRITERIA; "max_logit" is ExpMax.
        seed: run seed; random signs come from the stream "signs" of each epoch and batch.
    """

    def __init__(self, masks: MaskTable, criterion: str = "max_logit", seed: int = 0) -> None:
        self.masks = masks
        self.criterion = CRITERIA[criterion]
        self.seed = seed

    def __call__(self, model: nn.Module, step: Step) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        """Logits and penalty of a batch of images."""
        at, masks = self.masks.find(step.sample_ids)
        if len(at) == 0:
            return model(step.inputs), step.inputs.new_zeros(())
        device = step.inputs.device
        masked = torch.from_numpy(at).to(device)
        others = torch.ones(len(step.inputs), dtype=torch.bool, device=device)
        others[masked] = False
        images = step.inputs[masked].requires_grad_()
        explained = model(images)
        signs = random_signs(explained.shape, torch_rng(self.seed, "mitigation", "signs", step.epoch, step.number))
        goal = self.criterion(explained, step.labels[masked], signs.to(explained)).sum()
        (gradients,) = torch.autograd.grad(goal, images, create_graph=True)
        penalty = overlap(gradients, torch.from_numpy(masks).to(device)).sum() / len(step.inputs)
        logits = explained.new_empty((len(step.inputs), explained.shape[1]))
        logits = logits.index_put((masked,), explained)
        if bool(others.any()):
            logits = logits.index_put((others.nonzero()[:, 0],), model(step.inputs[others]))
        return logits, penalty


def overlap(gradients: Float[Tensor, "b c h w"], masks: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Cosine in [0,1] of |sum over channels of the gradient| and the mask; 0 where either is zero everywhere."""
    heat = gradients.sum(1).abs().flatten(1)
    region = masks.flatten(1).to(heat)
    lengths = torch.linalg.vector_norm(heat, dim=1) * torch.linalg.vector_norm(region, dim=1)
    return (heat * region).sum(1) / (lengths + torch.finfo(heat.dtype).tiny)


@METHODS.register("rrr")
class Rrr(Method):
    """Fine-tuning of the whole model with `MaskPenalty`, all strengths in lockstep on shared batches [Ross2017]."""

    name = "rrr"
    params: RrrParams

    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """Every strength."""
        strengths = self.params.lambdas if self.params.enabled else ()
        return [Candidate(label_of(self.name, None, s), self.name, None, s) for s in strengths]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs at least one mask of a training image."""
        if len(self._masks(material)):
            return None
        return "There is no artifact mask for any training image, since no artifact was confirmed or localized."

    def _masks(self, material: Material) -> Sequence[int]:
        return material.masks.find(material.train.sample_ids)[0].tolist()

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Fine-tune copies of the model."""
        penalty = MaskPenalty(material.masks, self.params.criterion, material.seed)
        yield from finetune(list(candidates), material, self.params, penalty)
