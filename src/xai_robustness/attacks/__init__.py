"""Attacks on predictions and on explanations; importing the package registers all attacks."""

from xai_robustness.attacks import autoattack, noise, pgd
from xai_robustness.attacks.base import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack", "autoattack", "noise", "pgd"]
