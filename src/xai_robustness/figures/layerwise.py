"""The five plots of the layer-wise study; correctly and incorrectly predicted images apart."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xai_robustness.figures.style import colours_of, grid, key, legend_below, styled, words

GROUPS = ("correct", "incorrect")
LINES = {"correct": "-", "incorrect": ":"}
FILLED = {"correct": "full", "incorrect": "none"}


def layer_label(layer: str) -> str:
    """The short name of a layer of a residual network.

    Example:
        >>> layer_label("layer3.1.conv2"), layer_label("features.8")
        ('3.1', 'features.8')
    """
    parts = layer.split(".")
    return f"{parts[0][5:]}.{parts[1]}" if layer.startswith("layer") and len(parts) == 3 else layer


def layerwise_figures(metrics: pd.DataFrame) -> dict[str, Figure]:
    """The five plots by name: rmse by layer, two scatter plots and two box plots against the loss of AUROC.

    Args:
        metrics: as `robustness.layerwise.layerwise_metrics` gives them.
    """
    return {
        "rmse": rmse_by_layer(metrics),
        "scatter_by_severity": _scatter(metrics, "severity", "corruption"),
        "scatter_by_corruption": _scatter(metrics, "corruption", "severity"),
        "box_by_layer": boxes_by_layer(metrics),
        "box_by_loss": boxes_by_loss(metrics),
    }


@styled
def rmse_by_layer(metrics: pd.DataFrame) -> Figure:
    """Mean RMSE of the maps by layer: a panel a severity, a colour a perturbation."""
    rows = metrics[(metrics["metric"] == "rmse") & metrics["group"].isin(GROUPS)]
    severities, layers = sorted(rows["severity"].unique()), list(dict.fromkeys(rows["layer"]))
    colours = colours_of(list(dict.fromkeys(rows["corruption"])))
    figure, axes = grid(1, len(severities), 2.6, 2.6, sharey=True)
    for panel, severity in zip(axes[0], severities):
        for (corruption, group), part in rows[rows["severity"] == severity].groupby(["corruption", "group"]):
            values = part.set_index("layer")["value"].reindex(layers)
            panel.plot(range(len(layers)), values, LINES[group], color=colours[corruption], marker="o", markersize=3)
        panel.set_xticks(range(len(layers)), [layer_label(layer) for layer in layers], rotation=60)
        panel.set_title(f"severity {severity}")
    axes[0, 0].set_ylabel("RMSE of the maps")
    _legend(figure, colours)
    return figure


@styled
def _scatter(metrics: pd.DataFrame, rows_by: str, colours_by: str) -> Figure:
    points = _with_loss(metrics)
    names, layers = list(dict.fromkeys(points[rows_by])), list(dict.fromkeys(points["layer"]))
    colours = colours_of(list(dict.fromkeys(points[colours_by])))
    figure, axes = grid(len(names), len(layers), 1.5, 1.5, sharex=True, sharey=True)
    for row, name in zip(axes, names):
        for panel, layer in zip(row, layers):
            part = points[(points[rows_by] == name) & (points["layer"] == layer)]
            for _, point in part.iterrows():
                look = {"color": colours[point[colours_by]], "fillstyle": FILLED[point["group"]]}
                panel.plot(point["value"], point["loss"], "o", markersize=4, **look)
        row[0].set_ylabel(words(str(name)))
    for panel, layer in zip(axes[0], layers):
        panel.set_title(layer_label(layer))
    figure.supxlabel("RMSE of the maps")
    figure.supylabel("loss of AUROC")
    _legend(figure, colours)
    return figure


@styled
def boxes_by_layer(metrics: pd.DataFrame) -> Figure:
    """Boxes over the 25 conditions of the RMSE by layer, and of the loss of AUROC beside them."""
    points = _with_loss(metrics)
    layers = list(dict.fromkeys(points["layer"]))
    figure, axes = grid(1, 2, 4.5, 2.8, width_ratios=[4, 1])
    for offset, group in zip((-0.18, 0.18), GROUPS):
        part = points[points["group"] == group]
        data = [part[part["layer"] == layer]["value"].dropna().to_numpy() for layer in layers]
        _box(axes[0, 0].boxplot, data, [i + offset for i in range(len(layers))], 0.3, group)
    axes[0, 0].set_xticks(range(len(layers)), [layer_label(layer) for layer in layers])
    axes[0, 0].set_ylabel("RMSE of the maps")
    loss = points.drop_duplicates(["corruption", "severity"])["loss"].dropna().to_numpy()
    axes[0, 1].boxplot([loss])
    axes[0, 1].set_xticks([])
    axes[0, 1].set_ylabel("loss of AUROC")
    _legend(figure, {})
    return figure


@styled
def boxes_by_loss(metrics: pd.DataFrame) -> Figure:
    """Horizontal boxes over layers of the RMSE, each at the loss of AUROC of its condition; a panel a perturbation."""
    points = _with_loss(metrics)
    names = list(dict.fromkeys(points["corruption"]))
    figure, axes = grid(1, len(names), 2.4, 2.8, sharex=True, sharey=True)
    losses = points["loss"].dropna()
    width = 0.03 * max(1e-3, float(losses.max() - losses.min())) if len(losses) else 0.01
    for panel, name in zip(axes[0], names):
        for group in GROUPS:
            part = points[(points["corruption"] == name) & (points["group"] == group)].dropna(subset=["loss"])
            parts = [(loss, p["value"].dropna().to_numpy()) for loss, p in part.groupby("loss")]
            if parts:
                data, places = [p for _, p in parts], [float(loss) for loss, _ in parts]
                _box(panel.boxplot, data, places, width, group, vertical=False)
        panel.set_title(words(name))
    axes[0, 0].set_ylabel("loss of AUROC")
    figure.supxlabel("RMSE of the maps")
    _legend(figure, {})
    return figure


def _box(
    draw: Callable[..., object],
    data: list[np.ndarray],
    places: list[float],
    width: float,
    group: str,
    vertical: bool = True,
) -> None:
    look = {"linestyle": LINES[group]}
    way = "vertical" if vertical else "horizontal"
    draw(
        data,
        positions=places,
        widths=width,
        boxprops=look,
        whiskerprops=look,
        showfliers=False,
        manage_ticks=False,
        orientation=way,
    )


def _with_loss(metrics: pd.DataFrame) -> pd.DataFrame:
    rmse = metrics[(metrics["metric"] == "rmse") & metrics["group"].isin(GROUPS)]
    loss = metrics[metrics["metric"] == "auroc_loss"].set_index(["corruption", "severity"])["value"]
    joined = rmse.join(loss.rename("loss"), on=["corruption", "severity"])
    return joined[["layer", "corruption", "severity", "group", "value", "loss"]]


def _legend(figure: Figure, colours: dict[object, str]) -> None:
    handles = [key(colour) for colour in colours.values()]
    names = [words(str(name)) for name in colours]
    for group in GROUPS:
        handles.append(key("#444444", linestyle=LINES[group], fillstyle=FILLED[group]))
        names.append(f"{group}ly predicted")
    legend_below(figure, handles, names)
