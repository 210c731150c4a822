"""Every corruption at every severity, on one image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xai_robustness.figures.style import blank, pixels, row_title, show_image, styled, tiles, words

WIDE = 2
"""Blocks of corruptions side by side, where there are more than eight."""


@styled
def severity_sheet(versions: Mapping[str, Any]) -> Figure:
    """Rows of corruptions, columns of severities; clean first.

    Args:
        versions: corruption -> images (1 + S,H,W,C) uint8 or (1 + S,C,H,W) floats in [0,1], the clean one first.
    """
    if not versions:
        return blank("No corruption is chosen.")
    shown = {name: pixels(images) for name, images in versions.items()}
    columns = len(next(iter(shown.values())))
    blocks = WIDE if len(shown) > 8 else 1
    rows = -(-len(shown) // blocks)
    figure, axes = tiles(rows, columns * blocks, 0.95, 0.95, 1.6 * blocks)
    for panel in axes.flat:
        panel.set_axis_off()
    for index, (name, images) in enumerate(shown.items()):
        block, row = divmod(index, rows)
        own = axes[row, block * columns : (block + 1) * columns]
        for severity, (panel, image) in enumerate(zip(own, images)):
            panel.set_axis_on()
            show_image(panel, np.asarray(image))
            if row == 0:
                panel.set_title("clean" if severity == 0 else str(severity))
        row_title(own[0], words(name).replace(" ", "\n"))
    return figure
