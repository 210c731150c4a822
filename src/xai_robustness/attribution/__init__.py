"""Explanations of single predictions; importing the package registers all methods."""

from xai_robustness.attribution import cam, forward_cam, gradients, lrp
from xai_robustness.attribution.base import ATTRIBUTORS, Attributor

__all__ = ["ATTRIBUTORS", "Attributor", "cam", "forward_cam", "gradients", "lrp"]
