"""The control of every attack: random changes of the same size."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from xai_robustness.attacks.base import ATTACKS, Attack, Best
from xai_robustness.attacks.budget import Budget
from xai_robustness.attacks.criteria import Criterion, Misclassified, cross_entropy
from xai_robustness.attacks.streams import Streams
from xai_robustness.types import InputError


@ATTACKS.register("noise")
class RandomNoise(Attack):
    """The best of some random images within the budget; no gradient is used.

    Args:
        budget: L-infinity or L2.
        draws: random images tried a sample.
        kind: corner: as far as the budget allows, every pixel by +ε or -ε (L2: a random direction of length ε);
            uniform: anywhere in the budget.
        criterion: what counts as success.
    """

    name = "noise"

    def __init__(
        self,
        budget: Budget,
        draws: int = 1,
        kind: Literal["corner", "uniform"] = "corner",
        criterion: Criterion | None = None,
    ) -> None:
        super().__init__(budget, criterion or Misclassified())
        if draws < 1 or budget.eps == float("inf") or kind not in ("corner", "uniform"):
            raise InputError(
                f"The draws, norm and kind of RandomNoise must be at least 1, linf or l2, and corner or uniform. "
                f"Got {draws}, {budget.norm} and {kind} instead."
            )
        self.draws, self.kind = draws, kind

    def draw(self, origin: Float[Tensor, "n c h w"], streams: Streams) -> Float[Tensor, "n c h w"]:
        """One random image a sample."""
        if self.kind == "uniform":
            return self.budget.start(origin, streams)
        step = streams.normal(origin)
        return self.budget.project(self.budget.ascend(origin, step, self.budget.eps), origin)

    def run(
        self,
        model: nn.Module,
        origin: Float[Tensor, "n c h w"],
        labels: Shaped[Tensor, "n ..."],
        streams: Streams,
    ) -> tuple[Float[Tensor, "n c h w"], None]:
        """The best draw of each sample."""
        best = Best(origin)
        rows = torch.arange(len(origin), device=origin.device)
        for _ in range(self.draws):
            images = self.draw(origin, streams)
            with torch.no_grad():
                logits = model(images)
            best.offer(images, cross_entropy(logits, labels), self.criterion(logits, labels), rows)
        return best.images, None
