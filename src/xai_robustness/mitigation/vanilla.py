"""The uncorrected model as a candidate, and plain fine-tuning as the control of every correction that trains."""

import copy
from collections.abc import Iterator, Sequence

from xai_robustness.mitigation.base import METHODS, REFERENCE, Candidate, Corrected, Material, Method
from xai_robustness.mitigation.finetune import finetune
from xai_robustness.mitigation.params import VanillaParams

FINETUNED = "vanilla_finetuned"
"""Name of the candidate that is trained further without a penalty."""


@METHODS.register("vanilla")
class Vanilla(Method):
    """No correction: the model itself, and the model after further training of all its weights."""

    name = "vanilla"
    params: VanillaParams

    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """The reference, which is always there, and the fine-tuned control."""
        names = [REFERENCE, FINETUNED] if self.params.enabled else [REFERENCE]
        return [Candidate(name, self.name) for name in names]

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """Neither candidate needs anything."""
        return None

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Copy the model; fine-tune a copy."""
        for candidate in candidates:
            if candidate.name == REFERENCE:
                yield Corrected(candidate, copy.deepcopy(material.model).eval())
            else:
                yield from finetune([candidate], material, self.params, None)
