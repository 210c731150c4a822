"""How well concept vectors retrieve artifact samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xai_robustness.figures.style import (
    BLUE,
    FONT,
    VERMILLION,
    blank,
    colours_of,
    errors,
    frame,
    grid,
    key,
    legend_below,
    markers_of,
    new_figure,
    pixels,
    rows_of,
    show_image,
    styled,
    words,
)

QUANTILES = (0.002, 0.5, 0.998)
"""Quantiles of the scores of each group at which a sample is shown."""

GROUPS = ((False, "without artifact", BLUE, None), (True, "with artifact", VERMILLION, "///"))


def quantile_rows(scores: Float[np.ndarray, " n"], inside: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " q"]:
    """Rows of the samples of a group whose scores lie nearest to the `QUANTILES` of the group; none of an empty one.

    Example:
        >>> quantile_rows(np.array([5.0, 1.0, 3.0, 9.0]), np.array([True, True, True, False])).tolist()
        [1, 2, 0]
    """
    rows = np.flatnonzero(inside & np.isfinite(scores))
    if len(rows) == 0:
        return rows
    order = rows[np.argsort(scores[rows], kind="stable")]
    return order[np.round(np.array(QUANTILES) * (len(order) - 1)).astype(int)]


@styled
def score_figure(
    scores: Float[np.ndarray, " n"],
    labels: Bool[np.ndarray, " n"],
    title: str = "",
    shown: Mapping[bool, Int[np.ndarray, " q"]] | None = None,
    images: Mapping[bool, UInt8[np.ndarray, "q h w c"]] | None = None,
) -> Figure:
    """Distribution of the bias score of samples without and with the artifact, each of area 1, and some of them.

    Args:
        scores: bias scores; NaN is left out.
        labels: whether the sample carries the artifact.
        title: what the scores are of.
        shown: for both groups, the rows of samples that are shown, from `quantile_rows`.
        images: for both groups, their images.
    """
    labels = np.asarray(labels, dtype=bool)
    if not shown or images is None or not any(len(rows) for rows in shown.values()):
        figure, axes = grid(1, 1, 5.6, 3.4)
        _histogram(axes[0, 0], scores, labels, title)
        legend_below(figure, *axes[0, 0].get_legend_handles_labels())
        return figure
    figure = new_figure(7.0, 5.2)
    halves: Any = figure.subfigures(2, 1, height_ratios=(2.2, 1))
    panel, below = halves
    axis = panel.subplots()
    _histogram(axis, scores, labels, title)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    tiles = below.subplots(1, 2 * len(QUANTILES))
    for (has, _, colour, _), first in zip(GROUPS, (0, len(QUANTILES))):
        for place, row in enumerate(shown[has]):
            tile = tiles[first + place]
            show_image(tile, pixels(images[has])[place])
            frame(tile, colour, 2.0)
            tile.set_title(f"{QUANTILES[place]:.1%}\n{scores[row]:.2f}", fontsize=FONT - 1)
            axis.axvline(scores[row], color=colour, linewidth=0.8, linestyle=":")
    for tile in tiles:
        if not tile.images:
            tile.set_axis_off()
    return figure


RETRIEVED = 24
"""Samples of `retrieved_figure`."""


@styled
def retrieved_figure(
    images: UInt8[np.ndarray, "q h w c"],
    scores: Float[np.ndarray, " q"],
    labels: Bool[np.ndarray, " q"],
    classes: Sequence[str],
    title: str = "",
) -> Figure:
    """The samples that a concept vector puts first, with class and bias score, framed by the label of the artifact.

    Args:
        images: of the samples, best first.
        scores: their bias scores.
        labels: whether a sample is labelled with the artifact; labels of real artifacts are incomplete.
        classes: names of their classes.
        title: which vector, out of how many samples.
    """
    if len(images) == 0:
        return blank(title)
    columns = min(8, len(images))
    figure, axes = grid(-(-len(images) // columns), columns, 1.0, 1.25)
    tiles = axes.ravel()
    for tile, image, score, has, name in zip(tiles, pixels(images), scores, labels, classes):
        show_image(tile, image)
        frame(tile, VERMILLION if has else BLUE, 2.0)
        tile.set_title(f"{name}\n{score:.2f}", fontsize=FONT - 2)
    for tile in tiles[len(images) :]:
        tile.set_axis_off()
    figure.suptitle(f"{title}: {int(np.sum(labels))} of {len(labels)} labelled with the artifact", fontsize=FONT)
    keys = {name: key(colour, "s") for has, name, colour, _ in GROUPS if has in labels}
    legend_below(figure, list(keys.values()), list(keys))
    return figure


def _histogram(panel: Axes, scores: np.ndarray, labels: np.ndarray, title: str) -> None:
    finite = np.isfinite(scores)
    bins: Any = np.histogram_bin_edges(scores[finite], bins=30) if finite.any() else 1
    for has, name, colour, hatch in GROUPS:
        chosen = scores[finite & (labels == has)]
        if len(chosen):
            label = f"{name} (n = {len(chosen)})"
            panel.hist(chosen, bins, density=True, alpha=0.55, color=colour, hatch=hatch, edgecolor=colour, label=label)
    panel.set(xlabel="bias score (projection on the concept vector)", ylabel="density", title=title)


@styled
def comparison(retrieval_metrics: pd.DataFrame, metrics: tuple[str, ...] = ("auroc", "average_precision")) -> Figure:
    """Retrieval by layer and kind of concept vector, with 95 % intervals.

    Args:
        retrieval_metrics: columns layer, kind and METRIC_COLUMNS; one row a metric, layer and kind.
        metrics: one panel each.
    """
    if retrieval_metrics.empty:
        return blank("No concept vector was fitted.")
    ours = retrieval_metrics.get("feature", "activations")
    suffix = np.where(ours == "activations", "", ", relevances")
    retrieval_metrics = retrieval_metrics.assign(kind=retrieval_metrics["kind"] + suffix)
    layers = list(dict.fromkeys(retrieval_metrics["layer"]))
    kinds = list(dict.fromkeys(retrieval_metrics["kind"]))
    colours, markers = colours_of(kinds), markers_of(kinds)
    figure, axes = grid(1, len(metrics), max(4.4, 1.0 + 0.9 * len(layers)), 3.2)
    offsets = np.linspace(-0.3, 0.3, len(kinds)) if len(kinds) > 1 else np.zeros(1)
    for panel, metric in zip(axes[0], metrics):
        rows = rows_of(retrieval_metrics, metric)
        for kind, offset in zip(kinds, offsets):
            own = rows[rows["kind"] == kind]
            x = np.array([layers.index(layer) for layer in own["layer"]]) + offset
            look: dict[str, Any] = {"color": colours[kind], "marker": markers[kind], "linestyle": "none", "capsize": 2}
            panel.errorbar(x, own["value"], yerr=errors(own), markersize=5, **look)
        panel.set(title=words(metric), xlim=(-0.6, len(layers) - 0.4))
        panel.set_xticks(range(len(layers)), layers, rotation=30 if len(layers) > 4 else 0)
        panel.grid(axis="y")
    legend_below(figure, [key(colours[k], markers[k]) for k in kinds], [words(k) for k in kinds])
    return figure


@styled
def effort_figure(curves: pd.DataFrame, target: float) -> Figure:
    """Recall and average precision against the number of labels given, the mean over repeats, one line a strategy.

    Args:
        curves: of `refinement.effort_curves`.
        target: average precision that counts as reached, a dotted line.
    """
    if curves.empty:
        return blank("The label effort was not measured (sample_retrieval.effort.repeats).")
    names = list(dict.fromkeys(curves["strategy"]))
    colours, markers = colours_of(names), markers_of(names)
    figure, axes = grid(1, 2, 4.4, 3.2)
    for panel, metric in zip(axes[0], ("recall", "average_precision")):
        for name in names:
            own = curves[curves["strategy"] == name].groupby("labels")[metric]
            mean, low, high = own.mean(), own.min(), own.max()
            panel.plot(mean.index, mean, color=colours[name], marker=markers[name], markersize=4, linewidth=1.2)
            panel.fill_between(mean.index, low, high, color=colours[name], alpha=0.12, linewidth=0)
        panel.set(title=words(metric), xlabel="labels given", ylim=(0, 1.03))
        panel.grid(axis="y")
    axes[0, 1].axhline(target, color="black", linewidth=0.8, linestyle=":")
    legend_below(figure, [key(colours[n], markers[n]) for n in names], [words(n) for n in names])
    return figure
