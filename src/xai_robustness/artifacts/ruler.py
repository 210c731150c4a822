"""A measuring scale: ticks along one border of the image."""

from typing import ClassVar

import numpy as np

from xai_robustness.artifacts.base import ARTIFACTS, Artifact, Insertion

BORDERS = ("top", "right", "bottom", "left")
"""Borders in the order in which quarter turns bring them to the top."""


@ARTIFACTS.register("ruler")
class Ruler(Artifact):
    """Ticks at equal distances over 60 to 85 % of one border, every fifth (under 64 pixels every other) longer.

    They are bright on gray scans (X-ray, ultrasound) and dark on colour photographs (skin).
    """

    at_border: ClassVar[bool] = True

    def insert(self, image: np.ndarray, rng: np.random.Generator) -> Insertion:
        """Draw the ticks along the given border, or one that `rng` chooses."""
        turns = int(rng.integers(4)) if self.border == "any" else BORDERS.index(self.border)
        turned = np.rot90(image, turns)
        height, width = turned.shape[:2]
        thick, gap = self.length(image, 0.012), self.length(image, 0.1, least=3)
        short, long = self.length(image, 0.075, least=2), self.length(image, 0.14, least=4)
        offset = int(rng.integers(0, self.length(image, 0.04) + 1))
        extent = int(rng.uniform(0.6, 0.85) * width)
        start = int(rng.integers(1, max(2, width - extent)))
        cover, mask = np.zeros((height, width)), np.zeros((height, width), bool)
        major = 2 if width < 64 else 5
        for i, x in enumerate(range(start, start + extent - thick, gap)):
            cover[offset : offset + (short if i % major else long), x : x + thick] = 1
            last = x + thick
        mask[offset : offset + long, start:last] = True
        drawn = self.blend(turned, self.ink(turned, mask, rng), cover)
        return Insertion(np.ascontiguousarray(np.rot90(drawn, -turns)), np.ascontiguousarray(np.rot90(mask, -turns)))
