"""Attacks by name, as parameters choose them; importing the module registers all of them."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from xai_robustness.attacks import autoattack, noise, pgd
from xai_robustness.attacks.base import ATTACKS, Attack
from xai_robustness.attacks.budget import BUDGETS, make_budget
from xai_robustness.models.adversarial import check_eps
from xai_robustness.types import Params

__all__ = ["AttackParams", "autoattack", "noise", "pgd"]


class AttackParams(Params):
    """One attack on predictions."""

    kind: str = Field("pgd", description="one of ATTACKS: fgsm, pgd, estimated_pgd, noise, autoattack")
    norm: str = Field("linf", description="linf, l2, unconstrained, fourier")
    eps: float = Field(4 / 255, description="radius in units of the images, [0,1]; l2: over all pixels")
    steps: int = Field(30, ge=1, description="steps of pgd, and of APGD in autoattack")
    restarts: int = Field(0, ge=0, description="pgd: further random starts")
    draws: int = Field(1, ge=1, description="noise: random images tried")
    queries: int = Field(1000, ge=1, description="autoattack: queries of Square; estimated_pgd: pairs a step")

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        return ATTACKS.checked(kind)

    @field_validator("norm")
    @classmethod
    def _known_norm(cls, norm: str) -> str:
        return BUDGETS.checked(norm)

    @model_validator(mode="after")
    def _possible(self) -> "AttackParams":
        check_eps(self.eps, self.norm, f"the {self.kind} attack")
        return self

    @property
    def condition(self) -> str:
        """Name of the condition in metrics: kind, norm and ε.

        Example:
            >>> AttackParams().condition
            'pgd_linf_0.01569'
        """
        return f"{self.kind}_{self.norm}_{self.eps:.4g}"

    def make(self) -> Attack:
        """The attack."""
        own: dict[str, dict[str, Any]] = {
            "pgd": {"steps": self.steps, "restarts": self.restarts},
            "estimated_pgd": {"steps": self.steps, "restarts": self.restarts, "queries": self.queries},
            "noise": {"draws": self.draws},
            "autoattack": {"steps": self.steps, "queries": self.queries},
        }
        return ATTACKS[self.kind](make_budget(self.norm, self.eps), **own.get(self.kind, {}))
