"""What corrections do to accuracy and to heatmaps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xai_robustness.figures.style import (
    BLACK,
    CONDITION_COLOURS,
    FONT,
    GRAY,
    blank,
    candidate_words,
    colours_of,
    errors,
    grid,
    key,
    legend_below,
    map_bar,
    markers_of,
    peak,
    pixels,
    row_title,
    rows_of,
    show_image,
    show_map,
    styled,
    tiles,
    words,
)

CONDITIONS = ("clean", "attacked")
REFERENCE = "vanilla"
NO_LAYER = "h"
MANY = 7
"""Up to this many groups of bars carry their values and level labels."""


@styled
def comparison(
    correction_metrics: pd.DataFrame,
    candidates: Mapping[str, str] | None = None,
    selected: str | None = None,
    metric: str = "balanced_accuracy",
    split: str = "test",
) -> Figure:
    """Grouped bars: a metric on clean and on attacked images for each candidate, with 95 % intervals.

    Args:
        correction_metrics: columns candidate and METRIC_COLUMNS.
        candidates: label -> candidate, in order of drawing, as `selection["best_by_method"]`; None draws all.
        selected: the candidate chosen on validation; its label is bold.
        metric: last part of the metric's name.
        split: first part of the metric's name.
    """
    if candidates is None:
        candidates = {name: name for name in dict.fromkeys(correction_metrics["candidate"])}
    many = len(candidates) > MANY
    figure, axes = grid(1, 1, max(5.5, (0.6 if many else 1.35) * len(candidates) + 1.2), 3.8)
    panel, places = axes[0, 0], np.arange(len(candidates))
    for condition, offset, hatch in zip(CONDITIONS, (-0.2, 0.2), (None, "//")):
        rows = rows_of(correction_metrics, f"{split}/{condition}/{metric}").set_index("candidate")
        rows = rows.reindex(list(candidates.values()))
        look: dict[str, Any] = {
            "color": CONDITION_COLOURS[condition],
            "hatch": hatch,
            "edgecolor": "white",
            "capsize": 0 if many else 3,
        }
        drawn = panel.bar(places + offset, rows["value"], 0.38, yerr=errors(rows), label=f"{condition} images", **look)
        if not many:
            panel.bar_label(drawn, fmt="{:.3f}", padding=2, fontsize=FONT - 1)
        for place in places[rows["value"].isna()] + offset:
            panel.text(place, 0.03, "undefined", rotation=90, ha="center", va="bottom", fontsize=FONT - 1)
    panel.set(
        ylabel=f"{split} {words(metric)}",
        xlim=(-0.6, len(candidates) - 0.4),
        ylim=(0, 1.1),
        yticks=np.linspace(0, 1, 6),
    )
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if many else {}
    panel.set_xticks(places, [_label(*item, ", " if many else "\n") for item in candidates.items()], **turned)
    for text, name in zip(panel.get_xticklabels(), candidates.values()):
        text.set_fontweight("bold" if name == selected else "normal")
    panel.grid(axis="y")
    legend_below(figure, *panel.get_legend_handles_labels())
    return figure


def _label(label: str, candidate: str, separator: str) -> str:
    title, *details = candidate_words(candidate).split(", ", maxsplit=1)
    return separator.join([words(label) if label != candidate else title, *details])


@styled
def tradeoff(
    correction_metrics: pd.DataFrame,
    selected: str | None = None,
    allowed_clean_loss: float | None = None,
    metric: str = "balanced_accuracy",
    split: str = "val",
) -> Figure:
    """Every candidate by its clean and attacked metric, the ground on which the selection was made.

    Args:
        correction_metrics: columns candidate, method, layer and METRIC_COLUMNS; the uncorrected model is `vanilla`.
        selected: candidate to ring.
        allowed_clean_loss: in units of the metric; candidates left of the line lose more and do not qualify.
        metric: last part of the metric's name.
        split: first part of the metric's name.
    """
    table = _clean_and_attacked(correction_metrics, metric, split)
    methods = list(dict.fromkeys(table.drop(index=REFERENCE, errors="ignore")["method"]))
    layers = list(dict.fromkeys(table["layer"].dropna()))
    colours, markers = colours_of(methods), markers_of(layers)
    figure, axes = grid(1, 1, 6.6, 5.4)
    panel = axes[0, 0]
    for name, row in table.iterrows():
        marker = "*" if name == REFERENCE else markers.get(row["layer"], NO_LAYER)
        size, colour = (170, BLACK) if name == REFERENCE else (48, colours[row["method"]])
        panel.scatter(row["clean"], row["attacked"], s=size, marker=marker, color=colour, zorder=3, alpha=0.9)
    _guides(panel, table, selected, allowed_clean_loss)
    panel.set(xlabel=f"{split} {words(metric)}, clean images", ylabel=f"{split} {words(metric)}, attacked images")
    panel.grid(axis="both")
    handles = [key(BLACK, "*", markersize=11), *(key(colours[m], "_", markeredgewidth=6) for m in methods)]
    handles += [key(GRAY, marker) for marker in (*markers.values(), NO_LAYER)]
    labels = ["uncorrected", *(words(m) for m in methods), *map(str, layers), "no layer"]
    if selected is not None:
        handles.append(key("none", markeredgecolor=BLACK, markersize=12))
        labels.append("selected")
    legend_below(figure, handles, labels, columns=4)
    return figure


def _clean_and_attacked(correction_metrics: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    first = correction_metrics.drop_duplicates("candidate").set_index("candidate")[["method", "layer"]]
    values = {
        condition: rows_of(correction_metrics, f"{split}/{condition}/{metric}").set_index("candidate")["value"]
        for condition in CONDITIONS
    }
    return first.assign(**values)


def _guides(panel: Axes, table: pd.DataFrame, selected: str | None, allowed_clean_loss: float | None) -> None:
    values = table[["clean", "attacked"]].astype(float)
    if selected is not None:
        clean, attacked = values.to_numpy()[values.index == selected][0]
        panel.scatter(clean, attacked, s=260, facecolors="none", edgecolors=BLACK, linewidths=1.4, zorder=4)
    low = float(np.nanmin(values))
    panel.axline((low, low), slope=1, color=GRAY, linewidth=1, linestyle=":")
    panel.annotate("no gap", (0.015, 0.03), xycoords="axes fraction", fontsize=FONT - 1, color=GRAY)
    if allowed_clean_loss is not None and REFERENCE in table.index:
        bound = float(values["clean"][REFERENCE]) - allowed_clean_loss
        panel.axvline(bound, color=GRAY, linewidth=1.2, linestyle="--")
        text: dict[str, Any] = {"rotation": 90, "va": "bottom", "ha": "right", "fontsize": FONT - 1, "color": "#555555"}
        panel.annotate("smallest clean value allowed", (bound, 0.02), xycoords=("data", "axes fraction"), **text)


@styled
def before_after(
    images: Any,
    before: Float[np.ndarray, "n h w"],
    after: Float[np.ndarray, "n h w"],
    titles: Sequence[str] = (),
) -> Figure:
    """Rows input, heatmap before, heatmap after, and after minus before; one column a sample, at most about eight.

    Args:
        images: uint8 (N,H,W,C) or floats (N,C,H,W) in [0,1].
        before: signed heatmaps of the uncorrected model, of any magnitude.
        after: signed heatmaps of the corrected model; both are divided by one scale a sample, the largest magnitude
            of the two, and the difference by its own.
        titles: above each column.
    """
    if len(before) == 0:
        return blank("No sample was explained.")
    figure, axes = tiles(4, len(before), 1.2, 1.2, margin=2.2)
    joint, difference = peak(before, after), np.asarray(after) - np.asarray(before)
    own, shown, drawn = peak(difference), pixels(images), None
    for column, title in zip(axes[0], titles):
        column.set_title(title)
    for i in range(len(before)):
        show_image(axes[0, i], shown[i])
        drawn = show_map(axes[1, i], before[i], float(joint[i]))
        show_map(axes[2, i], after[i], float(joint[i]))
        show_map(axes[3, i], difference[i], float(own[i]))
    for first, name in zip(axes[:, 0], ("input", "before", "after", "after - before")):
        row_title(first, name)
    if drawn is not None:
        map_bar(figure, axes, drawn, "relevance / largest magnitude")
    return figure
