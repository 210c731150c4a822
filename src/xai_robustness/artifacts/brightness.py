"""Overexposure: the whole image blended towards white."""

import numpy as np

from xai_robustness.artifacts.base import ARTIFACTS, Artifact, Insertion


@ARTIFACTS.register("brightness")
class Brightness(Artifact):
    """x becomes (1 - strength) x + strength 255 in every pixel; nothing is random and there is nothing to locate."""

    localizable = False
    default_strength = 0.3

    def insert(self, image: np.ndarray, rng: np.random.Generator) -> Insertion:
        """Blend the image towards white."""
        everywhere = np.ones(image.shape[:2], bool)
        return Insertion(self.blend(image, 255.0, everywhere), everywhere)
