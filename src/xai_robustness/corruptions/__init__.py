"""Model-blind degradations of images; importing the package registers all of them."""

from xai_robustness.corruptions import blur, characters, color, deposits, digital, noise, sensor
from xai_robustness.corruptions.base import CORRUPTIONS, Corruption, corrupt

__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "blur",
    "characters",
    "color",
    "corrupt",
    "deposits",
    "digital",
    "noise",
    "sensor",
]
