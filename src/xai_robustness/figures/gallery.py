"""Attributions of many methods side by side: rows methods, columns samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from xai_robustness.figures.style import (
    FONT,
    GREEN,
    VERMILLION,
    blank,
    frame,
    map_bar,
    pixels,
    row_title,
    show_image,
    show_map,
    styled,
    tiles,
)
from xai_robustness.types import InputError

SIDE = 0.85
"""Side of a tile, in inches."""


@styled
def gallery(
    images: Any,
    attributions: Mapping[str, Float[np.ndarray, "n c h w"]],
    titles: Sequence[str] = (),
    correct: Sequence[bool] = (),
    percentile: float = 99.0,
) -> Figure:
    """One row a method, one column a sample, the images on top.

    Each map is its attribution summed over channels, divided by the given percentile of its own magnitudes and cut to
    [-1,1]; white is zero. So maps of any magnitude look like their rescaled copies.

    Args:
        images: uint8 (N,H,W,C) or floats (N,C,H,W) in [0,1].
        attributions: method -> signed (N,C,H,W), or (N,1,H,W).
        titles: above each column, such as the prediction.
        correct: whether each prediction is right; the image's frame is green or red.
        percentile: magnitudes above it are cut, in (0,100].

    Raises:
        InputError: a percentile outside (0,100].
    """
    if not 0 < percentile <= 100:
        raise InputError(f"The percentile parameter of gallery must be in (0,100]. Got {percentile} instead.")
    n = len(images)
    if not attributions or n == 0:
        return blank("There is no attribution set: attribution_sets.methods is empty.")
    figure, axes = tiles(1 + len(attributions), n, SIDE, SIDE, margin=3.0)
    shown, drawn = pixels(images), None
    for i, (column, image) in enumerate(zip(axes[0], shown)):
        show_image(column, image)
        if i < len(correct):
            frame(column, GREEN if correct[i] else VERMILLION, 2.0)
        if i < len(titles):
            column.set_title(titles[i], fontsize=FONT - 3)
    for (method, values), row in zip(attributions.items(), axes[1:]):
        maps = np.asarray(values, dtype=float).sum(1)
        for column, one in zip(row, maps):
            drawn = show_map(column, one, clipping(one, percentile))
        row_title(row[0], method.replace("_", " "))
    row_title(axes[0][0], "image")
    map_bar(figure, axes, drawn, f"attribution / its {percentile:g}th percentile")
    return figure


def clipping(one: Float[np.ndarray, "h w"], percentile: float) -> float:
    """The magnitude at a percentile of a map's finite values; the largest one where that is 0, as in sparse maps."""
    sizes = np.abs(one[np.isfinite(one)])
    if sizes.size == 0:
        return 0.0
    return float(np.percentile(sizes, percentile) or sizes.max())
