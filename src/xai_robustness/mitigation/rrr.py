"""Right for the right reasons: the input gradient is to keep away from the artifact's mask."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xai_robustness.mitigation.base import METHODS, Candidate, Corrected, MaskTable, Material, Method, label_of
from xai_robustness.mitigation.finetune import finetune
from xai_robustness.mitigation.objectives import Penalty, Step
from xai_robustness.mitigation.params import RrrParams
from xai_robustness.mitigation.penalties import CRITERIA, FORMS, random_signs
from xai_robustness.models.inputs import flip
from xai_robustness.randomness import torch_rng


class MaskPenalty(Penalty):
    """RRR's penalty: what of the input gradient lies in the mask [Ross2017].

    The mean runs over all samples of the batch; a sample without a mask counts 0 and costs no second derivative. Masks
    are mirrored with their images.

    Args:
        masks: artifact masks by training sample.
        criterion: what the gradient explains, a name of CRITERIA; "max_logit" is ExpMax.
        seed: run seed; random signs come from the stream "signs" of each epoch and batch.
        form: how gradient and mask are compared, a name of FORMS.
    """

    def __init__(self, masks: MaskTable, criterion: str = "max_logit", seed: int = 0, form: str = "cosine") -> None:
        self.masks = masks
        self.criterion = CRITERIA[criterion]
        self.seed = seed
        self.form = FORMS[form]

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
        regions = moved(torch.from_numpy(masks), None if step.flips is None else step.flips[at]).to(device)
        penalty = self.form(gradients, regions).sum() / len(step.inputs)
        logits = explained.new_empty((len(step.inputs), explained.shape[1]))
        logits = logits.index_put((masked,), explained)
        if bool(others.any()):
            logits = logits.index_put((others.nonzero()[:, 0],), model(step.inputs[others]))
        return logits, penalty


def moved(masks: Bool[Tensor, "b h w"], flips: Bool[Tensor, "b 2"] | None) -> Bool[Tensor, "b h w"]:
    """Masks mirrored with their images."""
    return masks if flips is None else flip(masks[:, None].clone(), flips)[:, 0]


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
        yield from finetune(list(candidates), material, self.params, self.penalty(material))

    def penalty(self, material: Material) -> Penalty:
        """The penalty of the masks."""
        return MaskPenalty(material.masks, self.params.criterion, material.seed, self.params.form)
