"""Attention rollout: what the class token attends to through all blocks."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xai_robustness.attribution.attention import caught
from xai_robustness.attribution.base import ATTRIBUTORS, Attributor
from xai_robustness.attribution.positions import token_grid, upsample
from xai_robustness.types import InputError


class _Rollout(Attributor):
    """Product over the blocks of what each passes on, from the patches to the class token."""

    heatmaps = True

    def attribute(self, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"]) -> Float[Tensor, "b 1 h w"]:
        """Maps of one batch, not negative, upsampled bilinearly; raises InputError for models without attention."""
        probabilities: list[Tensor] = []

        def keep(found: Tensor) -> Tensor:
            probabilities.append(found if found.requires_grad else found.detach().requires_grad_())
            return probabilities[-1]

        with torch.enable_grad(), caught(self.model, keep):
            total = self.model(images).gather(1, targets[:, None]).sum()
        if not probabilities or any(p.shape != probabilities[0].shape for p in probabilities):
            raise InputError(
                f"The model parameter of {type(self).__name__} must be a transformer whose blocks attend over the same "
                f"tokens. Got {[tuple(p.shape) for p in probabilities]} as attentions instead."
            )
        n = probabilities[0].shape[-1]
        rolled = torch.eye(n, dtype=images.dtype, device=images.device).expand(len(images), n, n)
        for block in self.blocks(probabilities, total):
            rolled = _rows_to_one(block + torch.eye(n, dtype=images.dtype, device=images.device)) @ rolled
        return self._maps(rolled, images)

    def blocks(self, probabilities: list[Tensor], total: Tensor) -> list[Float[Tensor, "b t t"]]:
        """What each block passes on beside the residual connection, from the first block to the last."""
        return [p.detach().mean(1) for p in probabilities]

    def _maps(self, rolled: Float[Tensor, "b t t"], images: Tensor) -> Tensor:
        """The class token's row over the patches; without class token the mean row."""
        n = rolled.shape[-1]
        grid = token_grid(n, images.shape[2], images.shape[3])
        if grid is None:
            raise InputError(
                f"The model parameter of {type(self).__name__} must have tokens that form a grid. Got {n} instead."
            )
        prefix = n - grid[0] * grid[1]
        row = rolled[:, 0] if prefix else rolled.mean(1)
        return upsample(row[:, prefix:].unflatten(1, grid), images.shape[1:])


@ATTRIBUTORS.register("attention_rollout")
class AttentionRollout(_Rollout):
    """Attention rollout: Π_l normalise(I + mean_heads(A_l)), class token's row [Abnar2020]; the same for all targets.

    Args:
        model: transformer for images.
        batch_size: images at once.
    """

    targeted = False


@ATTRIBUTORS.register("gradient_rollout")
class GradientRollout(_Rollout):
    """Rollout of mean_heads(relu(∂f_t/∂A_l ⊙ A_l)), the attention that speaks for the target [Chefer2021].

    Args:
        model: transformer for images.
        batch_size: images at once.
    """

    def blocks(self, probabilities: list[Tensor], total: Tensor) -> list[Float[Tensor, "b t t"]]:
        """Positive part of gradient times attention, mean over heads."""
        gradients = torch.autograd.grad(total, probabilities)
        return [(g * p.detach()).relu().mean(1) for g, p in zip(gradients, probabilities)]


def _rows_to_one(matrices: Float[Tensor, "b t t"]) -> Float[Tensor, "b t t"]:
    return matrices / matrices.sum(-1, keepdim=True)
