"""Model-blind degradations of images; importing the package registers all of them."""

from xai_robustness.corruptions import blur, color, digital, noise
from xai_robustness.corruptions.base import CORRUPTIONS, Corruption, corrupt

__all__ = ["CORRUPTIONS", "Corruption", "blur", "color", "corrupt", "digital", "noise"]
