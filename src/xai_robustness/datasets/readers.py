"""Importing this module registers every reader."""

from xai_robustness.datasets import chexpert, folder, ham10000, hyper_kvasir, isic, ptbxl
from xai_robustness.datasets.records import READERS

__all__ = ["READERS", "chexpert", "folder", "ham10000", "hyper_kvasir", "isic", "ptbxl"]
