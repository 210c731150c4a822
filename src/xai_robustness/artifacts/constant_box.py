"""A white box at the same place in every image: the classical backdoor trigger."""

import numpy as np

from xai_robustness.artifacts.base import ARTIFACTS, Artifact, Insertion


@ARTIFACTS.register("constant_box")
class ConstantBox(Artifact):
    """White square of 8 % of the side, 4 % off the top left corner; nothing is random."""

    def insert(self, image: np.ndarray, rng: np.random.Generator) -> Insertion:
        """Draw the box."""
        side, offset = self.length(image, 0.08, least=2), self.length(image, 0.04)
        mask = np.zeros(image.shape[:2], bool)
        mask[offset : offset + side, offset : offset + side] = True
        return Insertion(self.blend(image, 255.0, mask), mask)
