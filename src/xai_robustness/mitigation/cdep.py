"""Contextual decomposition explanation penalisation: the artifact's region is to contribute to no logit."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.mitigation.base import METHODS, Candidate, MaskTable, Material, label_of
from xai_robustness.mitigation.contextual import decompose
from xai_robustness.mitigation.objectives import Penalty, Step
from xai_robustness.mitigation.params import CdepParams
from xai_robustness.mitigation.rrr import Rrr, moved
from xai_robustness.types import InputError


class RegionPenalty(Penalty):
    """CDEP's penalty: softmax over [region, rest] of each logit's contributions, mean over logits [Rieger2020].

    The mean runs over all samples of the batch; a sample without a mask counts 0. Masks are mirrored with their images.

    Args:
        masks: artifact masks by training sample.
    """

    def __init__(self, masks: MaskTable) -> None:
        self.masks = masks

    def __call__(self, model: nn.Module, step: Step) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        """Logits and penalty of a batch of images."""
        assert isinstance(model, nn.Sequential)
        at, masks = self.masks.find(step.sample_ids)
        logits = model(step.inputs)
        if len(at) == 0:
            return logits, step.inputs.new_zeros(())
        device = step.inputs.device
        regions = moved(torch.from_numpy(masks), None if step.flips is None else step.flips[at]).to(device)
        region, rest = decompose(model, step.inputs[torch.from_numpy(at).to(device)], regions)
        share = torch.stack([region, rest]).softmax(0)[0]
        return logits, share.mean(1).sum() / len(step.inputs)


@METHODS.register("cdep")
class Cdep(Rrr):
    """Fine-tuning of the whole model with `RegionPenalty`, all strengths in lockstep [Rieger2020]."""

    name = "cdep"
    params: CdepParams  # type: ignore[assignment]

    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """Every strength."""
        strengths = self.params.lambdas if self.params.enabled else ()
        return [Candidate(label_of(self.name, None, s), self.name, None, s) for s in strengths]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs a mask, and a model of modules that can be decomposed."""
        why = super().absence(candidate, material)
        if why is None:
            image = material.train.tensor(slice(0, 1)).to(material.device)
            try:
                with torch.no_grad():
                    decompose(material.model.to(material.device), image, image[:, 0] < 0)
            except InputError as error:
                return str(error)
        return why

    def penalty(self, material: Material) -> Penalty:
        """The penalty of the masks."""
        return RegionPenalty(material.masks)
