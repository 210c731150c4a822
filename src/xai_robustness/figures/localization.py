"""Where the artifact is, truly and as localized."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from xai_robustness.figures.style import (
    blank,
    map_bar,
    peak,
    pixels,
    row_title,
    show_image,
    show_map,
    show_mask,
    styled,
    tiles,
)


@styled
def rows_figure(
    images: Any,
    truth: Bool[np.ndarray, "n h w"] | None,
    heatmaps: Float[np.ndarray, "n h w"],
    masks: Bool[np.ndarray, "n h w"],
    titles: Sequence[str] = (),
) -> Figure:
    """Rows input, true mask (where known), heatmap and predicted mask; one column a sample, at most about eight.

    Args:
        images: uint8 (N,H,W,C) or floats (N,C,H,W) in [0,1].
        truth: true masks.
        heatmaps: signed, of any magnitude; each is shown divided by its own largest magnitude, zero white.
        masks: predicted masks.
        titles: above each column.
    """
    if len(heatmaps) == 0:
        return blank("No sample was localized.")
    names = ["input", *(["true mask"] if truth is not None else []), "heatmap", "predicted mask"]
    figure, axes = tiles(len(names), len(heatmaps), 1.2, 1.2, margin=2.2)
    scales, shown, drawn = peak(heatmaps), pixels(images), None
    for column, title in zip(axes[0], titles):
        column.set_title(title)
    for i in range(len(heatmaps)):
        cells = dict(zip(names, axes[:, i]))
        show_image(cells["input"], shown[i])
        if truth is not None:
            show_mask(cells["true mask"], truth[i])
        drawn = show_map(cells["heatmap"], heatmaps[i], float(scales[i]))
        show_mask(cells["predicted mask"], masks[i])
    for name, first in zip(names, axes[:, 0]):
        row_title(first, name)
    if drawn is not None:
        map_bar(figure, axes, drawn, "relevance / its largest magnitude")
    return figure
