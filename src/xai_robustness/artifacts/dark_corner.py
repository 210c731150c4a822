"""Dark corners: the black frame around the round field of view of a microscope or dermatoscope."""

import numpy as np

from xai_robustness.artifacts.base import ARTIFACTS, Artifact, Insertion


@ARTIFACTS.register("dark_corner")
class DarkCorner(Artifact):
    """Black outside of a centred circle of radius 0.49 to 0.56 of the shorter side; a larger `size` darkens more."""

    def insert(self, image: np.ndarray, rng: np.random.Generator) -> Insertion:
        """Darken what lies outside of the circle, with an edge one pixel wide."""
        height, width = image.shape[:2]
        radius = min(height, width) * min(rng.uniform(0.49, 0.56) / self.size, 0.6)
        y, x = np.ogrid[:height, :width]
        distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
        cover = np.clip(distance - radius + 0.5, 0, 1)
        return Insertion(self.blend(image, 8.0, cover), cover > 0)
