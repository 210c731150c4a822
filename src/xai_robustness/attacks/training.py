"""The attacks of adversarial training."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from xai_robustness.attacks.budget import Budget, make_budget
from xai_robustness.attacks.criteria import cross_entropy
from xai_robustness.attacks.pgd import PGD
from xai_robustness.attacks.streams import Streams
from xai_robustness.models.adversarial import AdversarialParams
from xai_robustness.models.modes import borrow

FAST_STEP = 1.25
"""Length of the single step of FGSM-RS, as a multiple of ε [Wong2020]."""

VALIDATION_STEPS = 10


class BudgetedAttack:
    """Adversarial images for training, as the parameters tell; see `models.adversarial.TrainingAttack`.

    Args:
        params: method, norm, ε, steps and their length.
    """

    def __init__(self, params: AdversarialParams) -> None:
        self.params = params

    def _budget(self, share: float) -> Budget:
        return make_budget(self.params.norm, self.params.eps * share)

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "b c h w"],
        labels: Shaped[Tensor, "b ..."],
        seed: int,
        ids: Sequence[int],
        share: float = 1.0,
    ) -> Float[Tensor, "b c h w"]:
        """The images of the largest loss on the way; for `fgsm_rs` the end of its one step."""
        budget = self._budget(share)
        if budget.eps == 0:
            return images
        if self.params.method == "fgsm_rs":
            return self._one_step(model, images, labels, Streams(seed, "attack/fgsm_rs", ids), budget)
        length = self.params.step_size * budget.eps
        return PGD(budget, self.params.steps, length, largest_loss=True)(model, images, labels, seed, ids).images

    def strong(
        self,
        model: nn.Module,
        images: Float[Tensor, "b c h w"],
        labels: Shaped[Tensor, "b ..."],
        seed: int,
        ids: Sequence[int],
    ) -> Float[Tensor, "b c h w"]:
        """PGD of VALIDATION_STEPS steps, which a network that only withstands single steps does not withstand."""
        return PGD(self._budget(1.0), VALIDATION_STEPS)(model, images, labels, seed, ids).images

    def _one_step(
        self, model: nn.Module, images: Tensor, labels: Tensor, streams: Streams, budget: Budget
    ) -> Float[Tensor, "b c h w"]:
        point = budget.start(images, streams).requires_grad_()
        with borrow(model):
            (gradient,) = torch.autograd.grad(cross_entropy(model(point), labels).sum(), point)
        return budget.project(budget.ascend(point.detach(), gradient, FAST_STEP * budget.eps), images)

    def climb(
        self,
        images: Float[Tensor, "b c h w"],
        gradient: Float[Tensor, "b c h w"],
        origin: Float[Tensor, "b c h w"],
        share: float,
    ) -> Float[Tensor, "b c h w"]:
        """One step of length ε."""
        budget = self._budget(share)
        return budget.project(budget.ascend(images, gradient, budget.eps), origin)


def training_attack(params: AdversarialParams) -> BudgetedAttack | None:
    """The attack of adversarial training, or None for plain training."""
    return BudgetedAttack(params) if params.active else None
