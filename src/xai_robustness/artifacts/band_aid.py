"""A coloured adhesive plaster beside the lesion, as in many photographs of children's naevi."""

import numpy as np

from xai_robustness.artifacts.base import ARTIFACTS, Artifact, Insertion

_COLOURS = np.array([[222.0, 178.0, 130.0], [92.0, 150.0, 205.0], [232.0, 150.0, 60.0], [120.0, 180.0, 90.0]])


@ARTIFACTS.register("band_aid")
class BandAid(Artifact):
    """Strip with round ends, 45 % of the side long and 17 % wide, with a pale pad, laid across a corner."""

    def insert(self, image: np.ndarray, rng: np.random.Generator) -> Insertion:
        """Lay the plaster across a corner that `rng` chooses."""
        height, width = image.shape[:2]
        side = min(height, width)
        right, low = rng.integers(2, size=2)
        inset, slide = rng.uniform(0.15, 0.20), rng.uniform(-0.04, 0.04)
        centre_x = (inset + slide) * side if not right else width - (inset + slide) * side
        centre_y = (inset - slide) * side if not low else height - (inset - slide) * side
        angle = (np.pi / 4 if right == low else -np.pi / 4) + np.pi / 2 + rng.normal(0, 0.12)
        colour = _COLOURS[rng.integers(len(_COLOURS))] + rng.normal(0, 6, 3)
        y, x = np.ogrid[:height, :width]
        dx, dy = x + 0.5 - centre_x, y + 0.5 - centre_y
        along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        half, thick = 0.225 * self.size * side, 0.085 * self.size * side
        beyond = np.maximum(np.abs(along) - (half - thick), 0)
        cover = np.clip(thick - np.hypot(beyond, across) + 0.5, 0, 1)
        pad = np.clip(0.42 * half - np.abs(along) + 0.5, 0, 1) * np.clip(0.8 * thick - np.abs(across) + 0.5, 0, 1)
        plaster = self.blend(image, colour, cover)
        return Insertion(self.blend(plaster, np.minimum(colour * 0.45 + 150, 255), pad * cover), cover > 0)
