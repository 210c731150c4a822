"""Artifacts and where they go; importing the package registers them all."""

from xai_robustness.artifacts import band_aid, brightness, constant_box, dark_corner, ruler, timestamp
from xai_robustness.artifacts.base import ARTIFACTS, Artifact, Insertion
from xai_robustness.artifacts.ecg import SIGNAL_ARTIFACTS, SignalArtifact
from xai_robustness.artifacts.insertion import ArtifactParams, AttackPlan, check_plan, insert_artifact, plan

__all__ = [
    "ARTIFACTS",
    "SIGNAL_ARTIFACTS",
    "Artifact",
    "ArtifactParams",
    "AttackPlan",
    "Insertion",
    "SignalArtifact",
    "band_aid",
    "brightness",
    "check_plan",
    "constant_box",
    "dark_corner",
    "insert_artifact",
    "plan",
    "ruler",
    "timestamp",
]
