"""How well concept vectors retrieve artifact samples."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from xai_robustness.figures.style import (
    BLUE,
    VERMILLION,
    blank,
    colours_of,
    errors,
    grid,
    key,
    legend_below,
    markers_of,
    rows_of,
    styled,
    words,
)


@styled
def score_figure(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], title: str = "") -> Figure:
    """Distribution of the bias score of samples without and with the artifact, each of area 1.

    Args:
        scores: bias scores; NaN is left out.
        labels: whether the sample carries the artifact.
        title: what the scores are of.
    """
    figure, axes = grid(1, 1, 5.6, 3.4)
    panel, finite, labels = axes[0, 0], np.isfinite(scores), np.asarray(labels, dtype=bool)
    bins = np.histogram_bin_edges(scores[finite], bins=30) if finite.any() else 1
    for has, name, colour, hatch in (
        (False, "without artifact", BLUE, None),
        (True, "with artifact", VERMILLION, "///"),
    ):
        chosen = scores[finite & (labels == has)]
        if len(chosen):
            label = f"{name} (n = {len(chosen)})"
            panel.hist(chosen, bins, density=True, alpha=0.55, color=colour, hatch=hatch, edgecolor=colour, label=label)
    panel.set(xlabel="bias score (projection on the concept vector)", ylabel="density", title=title)
    legend_below(figure, *panel.get_legend_handles_labels())
    return figure


@styled
def comparison(retrieval_metrics: pd.DataFrame, metrics: tuple[str, ...] = ("auroc", "average_precision")) -> Figure:
    """Retrieval by layer and kind of concept vector, with 95 % intervals.

    Args:
        retrieval_metrics: columns layer, kind and METRIC_COLUMNS; one row a metric, layer and kind.
        metrics: one panel each.
    """
    if retrieval_metrics.empty:
        return blank("No concept vector was fitted.")
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
