"""What neurons answer to: galleries of their reference samples, and one sample taken apart into its concepts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from xai_robustness.figures.style import (
    FONT,
    blank,
    map_bar,
    peak,
    pixels,
    row_title,
    show_image,
    show_map,
    styled,
    tiles,
)

SIDE = 0.72
"""Side of a tile, in inches."""


@dataclass(frozen=True, eq=False)
class References:
    """Reference samples of one neuron.

    Attributes:
        title: what the row is called.
        images: uint8 (M,H,W,C), or signals.
        heatmaps: conditional heatmaps (L,H,W) of the first L images, signed.
    """

    title: str
    images: Any
    heatmaps: Float[np.ndarray, "l h w"]


@styled
def neuron_gallery(rows: Sequence[References], each: int, titles: Sequence[str] = ()) -> Figure:
    """Two lines a neuron: its reference samples, and below them the relevance that passes through the neuron.

    Each heatmap is divided by its largest magnitude; red speaks for the sample's class, blue against it.

    Args:
        rows: the neurons.
        each: how many of the images of each row belong to a title.
        titles: above the first, the second and so on of these groups.
    """
    if not rows:
        return blank("No neurons are shown (reveal.neurons.shown).")
    columns = max(len(row.images) for row in rows)
    figure, axes = tiles(2 * len(rows), columns, SIDE, SIDE, margin=2.4)
    drawn = None
    for i, row in enumerate(rows):
        drawn = _pair(axes[2 * i], axes[2 * i + 1], row) or drawn
    for place, title in zip(range(0, columns, each), titles):
        _over(axes[0][place], title)
    map_bar(figure, axes, drawn, "relevance / its largest magnitude")
    return figure


@styled
def glocal_figure(
    image: Any, heatmap: Float[np.ndarray, "h w"], parts: Float[np.ndarray, "m h w"], rows: Sequence[References]
) -> Figure:
    """One sample and its most relevant concepts: where each lies in it, and which samples show what it means.

    Args:
        image: (1,H,W,C) of the sample.
        heatmap: its heatmap.
        parts: its conditional heatmap of every concept.
        rows: the concepts, with their reference samples.
    """
    if not rows:
        return blank("There is no sample to take apart.")
    columns = 2 + max(len(row.images) for row in rows)
    figure, axes = tiles(2 * len(rows), columns, SIDE, SIDE, margin=2.4)
    for line in axes[:, :2].flat:
        line.set_axis_off()
    show_image(axes[0][0], pixels(image)[0])
    axes[0][0].set_axis_on()
    axes[0][0].set_title("sample", fontsize=FONT)
    drawn = show_map(axes[1][0], heatmap, float(peak(heatmap[None])[0]))
    axes[1][0].set_axis_on()
    scale = float(peak(parts).max())
    for i, row in enumerate(rows):
        own = axes[2 * i][1]
        own.set_axis_on()
        show_map(own, parts[i], scale)
        own.set_xlabel(row.title, fontsize=FONT - 2)
        _pair(axes[2 * i][2:], axes[2 * i + 1][2:], References("", row.images, row.heatmaps))
    axes[0][1].set_title("its part", fontsize=FONT)
    _over(axes[0][2], "samples in which the channel is most relevant")
    map_bar(figure, axes, drawn, "relevance / its largest magnitude")
    return figure


def _over(axes: Any, title: str) -> None:
    """A title that reaches over several columns and moves none; an empty one of this column keeps the room above."""
    axes.set_title(" ", fontsize=FONT)
    axes.text(0, 1.08, title, transform=axes.transAxes, fontsize=FONT).set_in_layout(False)


def _pair(images: Any, maps: Any, row: References) -> Any:
    shown, sizes, drawn = pixels(row.images), peak(row.heatmaps), None
    for j, (above, below) in enumerate(zip(images, maps)):
        if j < len(shown):
            show_image(above, shown[j])
        else:
            above.set_axis_off()
        if j < len(row.heatmaps):
            drawn = show_map(below, row.heatmaps[j], float(sizes[j]))
        else:
            below.set_axis_off()
    if row.title:
        row_title(images[0], row.title)
    return drawn
