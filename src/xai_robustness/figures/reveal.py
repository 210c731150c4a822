"""The embedding in which suspects were found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xai_robustness.figures.style import (
    BLACK,
    FONT,
    GRAY,
    blank,
    colours_of,
    frame,
    key,
    legend_below,
    markers_of,
    new_figure,
    pixels,
    row_title,
    show_image,
    show_map,
    styled,
    tiles,
)

OUTLINE = "#d55e00"
MAX_ROWS, MAX_COLUMNS = 6, 6
"""Thumbnails shown at most: suspects, and samples of each."""


@styled
def embedding_figure(
    points: Float[np.ndarray, "n 2"],
    groups: Int[np.ndarray, " n"],
    suspect_names: Mapping[int, str],
    thumbnails: UInt8[np.ndarray, "m h w c"],
    thumb_index: Int[np.ndarray, " m"],
    truth: Bool[np.ndarray, " n"] | None = None,
    title: str = "",
) -> Figure:
    """Scatter of samples, coloured by suspect, beside typical images of each suspect.

    Args:
        points: layout of the embedding.
        groups: group of each sample.
        suspect_names: group -> name, best suspect first; samples of other groups are gray.
        thumbnails: images of some samples; the first six of each of the first six suspects are shown.
        thumb_index: the rows of `points` that they show.
        truth: whether the sample carries the artifact, where known; ringed in black.
        title: above the scatter.
    """
    shown = {group: [i for i, row in enumerate(thumb_index) if groups[row] == group] for group in suspect_names}
    rows = [group for group in shown if shown[group]][:MAX_ROWS]
    figure = new_figure(10.5 if rows else 6.0, max(4.2, 0.85 * len(rows) + 1.0))
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1)) if rows else [figure]
    axes = halves[0].subplots()
    _scatter(axes, points, groups, suspect_names, truth)
    axes.set_title(title)
    if rows:
        tiles = halves[1].subplots(len(rows), MAX_COLUMNS, squeeze=False)
        for line, group in zip(tiles, rows):
            _tiles(line, pixels(thumbnails)[shown[group][:MAX_COLUMNS]], suspect_names, group)
    _legend(figure, suspect_names, truth)
    return figure


def _scatter(
    axes: Axes,
    points: Float[np.ndarray, "n 2"],
    groups: Int[np.ndarray, " n"],
    names: Mapping[int, str],
    truth: Bool[np.ndarray, " n"] | None,
) -> None:
    colours, markers = colours_of(list(names)), markers_of(list(names))
    size = float(np.clip(9000 / max(len(points), 1), 8, 36))
    other = ~np.isin(groups, list(names))
    axes.scatter(points[other, 0], points[other, 1], s=size * 0.7, color=GRAY, linewidth=0, alpha=0.6)
    for group in reversed(list(names)):
        axes.scatter(
            points[groups == group, 0],
            points[groups == group, 1],
            s=size,
            color=colours[group],
            marker=markers[group],
            linewidth=0,
        )
    if truth is not None:
        axes.scatter(
            points[truth, 0], points[truth, 1], s=size * 2, facecolors="none", edgecolors=BLACK, linewidths=0.6
        )
    axes.set(xlabel="first axis of the layout", ylabel="second axis", xticks=[], yticks=[])


def _tiles(line: Shaped[np.ndarray, " k"], images: np.ndarray, names: Mapping[int, str], group: int) -> None:
    colour = colours_of(list(names))[group]
    for axes, image in zip(line, images):
        show_image(axes, image)
        frame(axes, colour, 2.0)
    for axes in line[len(images) :]:
        axes.set_axis_off()
    line[0].set_ylabel(names[group], rotation=0, ha="right", va="center", labelpad=6, color=colour, fontsize=FONT)


def _legend(figure: Figure, names: Mapping[int, str], truth: Bool[np.ndarray, " n"] | None) -> None:
    colours, markers = colours_of(list(names)), markers_of(list(names))
    handles = [key(colours[group], markers[group]) for group in names] + [key(GRAY)]
    labels = [*names.values(), "no suspect"]
    if truth is not None:
        handles.append(key("none", markeredgecolor=BLACK, markersize=9))
        labels.append("true artifact")
    legend_below(figure, handles, labels)


@styled
def prototype_figure(
    prototypes: pd.DataFrame,
    images: UInt8[np.ndarray, "m h w c"],
    concepts: pd.DataFrame,
    references: UInt8[np.ndarray, "q h w c"],
    class_names: Sequence[str],
) -> Figure:
    """The nearest samples of each prototype beside its line of the concept matrix, one row a prototype.

    Above the matrix of a class, number and strongest sample of each channel; in the matrix the share of the relevance,
    in percent, in colour by the largest of the class.

    Args:
        prototypes: columns class, prototype, coverage, place; one row a sample.
        images: the image of each row.
        concepts: columns class, prototype, neuron, percent; one row a prototype and channel.
        references: the image of each of these rows.
        class_names: names of the classes.
    """
    if prototypes.empty:
        return blank("No prototypes were fitted (reveal.prototypes).")
    samples, shown, above = int(prototypes["place"].max()) + 1, pixels(images), pixels(references)
    channels = int(concepts.groupby(["class", "prototype"]).size().max())
    keys = prototypes[["class", "prototype"]].to_numpy(int)
    groups = [(int(c), int(p), np.flatnonzero((keys == (c, p)).all(1))) for c, p in np.unique(keys, axis=0)]
    classes = sorted({c for c, _, _ in groups})
    figure, axes = tiles(len(groups) + len(classes), samples + channels, 0.85, 0.85, 2.2)
    for axis in axes.flat:
        axis.set_axis_off()
    line = 0
    for c in classes:
        matrix = concepts[concepts["class"] == c]
        largest = float(matrix["percent"].abs().max())
        first = np.flatnonzero((concepts["class"] == c) & ~concepts.duplicated(["class", "neuron"]))
        for axis, row in zip(axes[line][samples:], first):
            _on(axis, above[row]).set_title(str(concepts["neuron"].iloc[row]))
        for own, prototype, rows in groups:
            if own != c:
                continue
            line += 1
            for axis, row in zip(axes[line], rows):
                _on(axis, shown[row])
            row_title(axes[line][0], f"{class_names[c]}, {prototype + 1}: {prototypes['coverage'].iloc[rows[0]]:.0%}")
            for axis, percent in zip(axes[line][samples:], matrix.loc[matrix["prototype"] == prototype, "percent"]):
                axis.set_axis_on()
                show_map(axis, np.array([[percent]]), largest)
                dark = abs(percent) > 0.6 * largest
                axis.text(0, 0, f"{percent:.1f}", ha="center", va="center", color="white" if dark else BLACK)
        line += 1
    return figure


def _on(axis: Axes, image: Shaped[np.ndarray, "h w c"]) -> Axes:
    axis.set_axis_on()
    show_image(axis, image)
    return axis


@styled
def transplant_figure(
    titles: Sequence[str], images: UInt8[np.ndarray, "r e 4 h w c"], parts: Bool[np.ndarray, "r e h w"]
) -> Figure:
    """Images that exchanged their most relevant part, one row a suspect.

    Args:
        titles: name of each suspect.
        images: examples of each suspect: a carrier, the carrier without its part, another image, that with the part.
        parts: the part of each carrier, outlined where it came from and where it went.
    """
    if not titles:
        return blank("No suspect was tried (reveal.transplant).")
    _, examples, kinds = images.shape[:3]
    figure, axes = tiles(len(titles), examples * kinds, 0.85, 0.85, 2.2)
    for line, title, row, part in zip(axes, titles, images, parts):
        for number, axis in enumerate(line):
            example, kind = divmod(number, kinds)
            show_image(axis, pixels(row[example])[kind])
            if kind in (0, kinds - 1) and min(part.shape[1:]) > 1:
                axis.contour(part[example], levels=[0.5], colors=[OUTLINE], linewidths=0.8)
        row_title(line[0], title)
    for number, axis in enumerate(axes[0]):
        axis.set_title(("suspect", "without", "other", "with")[number % kinds], fontsize=FONT)
    return figure
