"""Explanations of single predictions; importing the package registers all methods."""

from xai_robustness.attribution import (
    cam,
    deeplift,
    forward_cam,
    gradients,
    libra,
    lrp,
    paths,
    perturbation,
    rollout,
    shapley,
)
from xai_robustness.attribution.base import ATTRIBUTORS, Attributor

__all__ = [
    "ATTRIBUTORS",
    "Attributor",
    "cam",
    "deeplift",
    "forward_cam",
    "gradients",
    "libra",
    "lrp",
    "paths",
    "perturbation",
    "rollout",
    "shapley",
]
