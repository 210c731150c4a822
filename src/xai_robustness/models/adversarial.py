"""Adversarial training: what it is told, where ε is checked, and a step on images that an attack has changed.

The attack itself comes from outside as a callable: this layer knows no attacks.
"""

import math
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int64, Shaped
from pydantic import Field, model_validator
from torch import Tensor, nn

from xai_robustness.types import InputError, Params

Norm = Literal["linf", "l2", "unconstrained", "fourier"]
BOUNDED: tuple[Norm, ...] = ("linf", "l2")
"""Norms whose budget has a radius ε."""


def check_eps(eps: float, norm: str, caller: str) -> float:
    """Return a radius ε in units of the images ([0,1]) if it can be one; the single place where ε is checked.

    Args:
        eps: L-infinity: in [0,1]; L2: at least 0, a norm over all pixels and channels, so 1 to 9 are usual at 224 px.
        norm: linf, l2, or one without a radius.
        caller: whose parameter it is, for the error.

    Raises:
        InputError: negative, not finite, or an L-infinity radius that was meant in units of 0..255.

    Example:
        >>> check_eps(8, "linf", "PGD")
        Traceback (most recent call last):
        xai_robustness.types.InputError: The eps parameter of PGD must be in [0,1], the unit of the images, for the \
L-infinity norm. Got 8 instead; for 8 of 255 grey levels write 0.03137.
    """
    if norm not in BOUNDED:
        return math.inf
    if not math.isfinite(eps) or eps < 0:
        raise InputError(f"The eps parameter of {caller} must be a finite number of at least 0. Got {eps} instead.")
    if norm == "linf" and eps > 1:
        raise InputError(
            f"The eps parameter of {caller} must be in [0,1], the unit of the images, for the L-infinity norm. "
            f"Got {eps:g} instead; for {eps:g} of 255 grey levels write {eps / 255:.4g}."
        )
    return float(eps)


class AdversarialParams(Params):
    """Adversarial training [Madry2018]: the loss is taken at images that an attack has moved within ε.

    `pgd`: several steps from a random start. `fgsm_rs`: one step of 1.25 ε from a random start [Wong2020]. `free`:
    every batch is used `steps` times in a row, and each backward pass moves the weights and the images [Shafahi2019];
    the perturbation is kept from batch to batch within an epoch, and an epoch counts `steps` updates a batch.
    """

    method: Literal["none", "pgd", "fgsm_rs", "free"] = Field("none", description="none: plain training")
    norm: Literal["linf", "l2"] = Field("linf", description="norm of the budget")
    eps: float = Field(8 / 255, description="radius in units of the images, [0,1]; l2: over all pixels")
    steps: int = Field(7, ge=1, description="pgd: steps of the attack; free: uses of each batch")
    step_size: float = Field(0.2, gt=0, description="pgd: length of a step as a share of eps")
    fade_in: int = Field(0, ge=0, description="epochs over which eps grows linearly from 0")

    @model_validator(mode="after")
    def _possible(self) -> "AdversarialParams":
        check_eps(self.eps, self.norm, "training.adversarial")
        return self

    @property
    def active(self) -> bool:
        """Whether training is adversarial at all."""
        return self.method != "none"

    def share_of_eps(self, epoch: int) -> float:
        """Share of eps that is used in an epoch, counted from 1.

        Example:
            >>> [AdversarialParams(fade_in=2).share_of_eps(epoch) for epoch in (1, 2, 3)]
            [0.5, 1.0, 1.0]
        """
        return min(1.0, epoch / self.fade_in) if self.fade_in else 1.0


class TrainingAttack(Protocol):
    """What adversarial training needs of an attack; `attacks.training.training_attack` makes one."""

    def perturb(
        self,
        model: nn.Module,
        images: Float[Tensor, "b c h w"],
        labels: Shaped[Tensor, "b ..."],
        seed: int,
        ids: Int64[Any, " b"],
        share: float,
    ) -> Float[Tensor, "b c h w"]:
        """Images within `share` of the budget, in [0,1]; random draws follow `seed` and the sample ids."""
        ...

    def strong(
        self,
        model: nn.Module,
        images: Float[Tensor, "b c h w"],
        labels: Shaped[Tensor, "b ..."],
        seed: int,
        ids: Int64[Any, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """Images for validation: an attack of several steps within the whole budget, whatever training uses."""
        ...

    def climb(
        self,
        images: Float[Tensor, "b c h w"],
        gradient: Float[Tensor, "b c h w"],
        origin: Float[Tensor, "b c h w"],
        share: float,
    ) -> Float[Tensor, "b c h w"]:
        """One step along a gradient that is at hand, of the length of the whole budget, back into the budget."""
        ...


class FreeSteps:
    """Training steps of `free`: the perturbation outlives its batch, and is forgotten at the end of an epoch.

    Args:
        attack: makes the step on the images.
        replays: uses of each batch.
    """

    def __init__(self, attack: TrainingAttack, replays: int) -> None:
        self.attack, self.replays = attack, replays
        self.kept: Tensor | None = None

    def forget(self) -> None:
        """Start from unperturbed images again, so that an epoch depends on nothing but its seed and the weights."""
        self.kept = None

    def step(
        self,
        model: nn.Module,
        loss: Any,
        optimizer: torch.optim.Optimizer,
        images: Float[Tensor, "b c h w"],
        labels: Shaped[Tensor, "b ..."],
        share: float,
    ) -> Float[Tensor, "b k"]:
        """Use one batch `replays` times; returns the logits of its last use."""
        kept = torch.zeros_like(images) if self.kept is None else self.kept
        if len(kept) < len(images):
            kept = torch.cat([kept, torch.zeros_like(images[len(kept) :])])
        current = (images + kept[: len(images)]).clamp(0, 1)
        logits = torch.empty(0)
        for _ in range(self.replays):
            current.requires_grad_()
            optimizer.zero_grad()
            logits = model(current)
            loss(logits, labels).backward()
            assert current.grad is not None
            current = self.attack.climb(current.detach(), current.grad, images, share)
            optimizer.step()
        self.kept = torch.cat([current - images, kept[len(images) :]])
        return logits.detach()
