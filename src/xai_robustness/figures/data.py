"""What the images look like."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from xai_robustness.figures.style import blank, frame, pixels, row_title, styled, tiles

GAP = 1
"""White pixels between the images of one tile."""


@styled
def contact_sheet(images: Mapping[str, Mapping[str, UInt8[np.ndarray, "m h w c"]]]) -> Figure:
    """Images by class (rows) and condition (columns).

    Args:
        images: class name -> condition -> images of one size, of the same samples in every condition; at most about
            eight. A class may have none.
    """
    if not any(len(tile) for row in images.values() for tile in row.values()):
        return blank("No image was given.")
    conditions = list(dict.fromkeys(name for row in images.values() for name in row))
    count = max(len(tile) for row in images.values() for tile in row.values())
    figure, axes = tiles(len(images), len(conditions), 0.75 * count, 0.8, margin=1.2)
    for line, (class_name, row) in zip(axes, images.items()):
        for panel, condition in zip(line, conditions):
            if len(row.get(condition, ())):
                panel.imshow(_strip(pixels(row[condition]), count), interpolation="nearest")
            frame(panel, "none")
        row_title(line[0], class_name)
    for panel, condition in zip(axes[0], conditions):
        panel.set_title(condition)
    return figure


def _strip(shown: np.ndarray, count: int) -> np.ndarray:
    """Images side by side, (H, count * (W + GAP) - GAP, 3), with blanks where there are fewer than `count`."""
    _, height, width, _ = shown.shape
    blank = shown.dtype.type(255 if shown.dtype == np.uint8 else 1)
    strip = np.full((height, count * (width + GAP) - GAP, 3), blank)
    for i, tile in enumerate(shown):
        strip[:, i * (width + GAP) : i * (width + GAP) + width] = tile
    return strip
