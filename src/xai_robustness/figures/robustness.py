"""Metrics under corruption, before and after correction."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xai_robustness.figures.style import BLUE, VERMILLION, blank, colours_of, grid, legend_below, rows_of, styled, words

LOOK: dict[str, tuple[str, Any, str]] = {"vanilla": (VERMILLION, "--", "s"), "corrected": (BLUE, "-", "o")}
CLEAN = ("clean", "")


@styled
def curves(robustness_metrics: pd.DataFrame, metric: str = "balanced_accuracy") -> Figure:
    """A metric against severity: one column a corruption, one row an attribution method (if any), one line a model.

    Args:
        robustness_metrics: columns model, corruption, severity, METRIC_COLUMNS and, for explanations, method. Rows of
            the corruption `clean` with severity 0 begin every curve.
        metric: last part of the metric's name.
    """
    if robustness_metrics.empty:
        return blank("Nothing was measured under corruptions.")
    table = rows_of(robustness_metrics, metric)
    table = table.assign(method=table["method"].fillna("")) if "method" in table else table.assign(method="")
    corruptions = [name for name in dict.fromkeys(table["corruption"]) if name not in CLEAN]
    methods, models = list(dict.fromkeys(table["method"])), list(dict.fromkeys(table["model"]))
    looks = {name: LOOK.get(name, (colour, ":", "^")) for name, colour in colours_of(models).items()}
    figure, axes = grid(len(methods), len(corruptions), 2.4, 2.3, sharex=True, sharey=True)
    for row, method in zip(axes, methods):
        for panel, corruption in zip(row, corruptions):
            inside = (table["corruption"].isin([corruption, *CLEAN])) & (table["method"] == method)
            for model, look in looks.items():
                _curve(panel, table[inside & (table["model"] == model)].sort_values("severity"), look)
            panel.set_xticks(sorted(table["severity"].unique()))
            panel.grid(axis="y")
        row[0].set_ylabel(f"{words(method)}\n{words(metric)}" if method else words(metric))
    for panel, corruption in zip(axes[0], corruptions):
        panel.set_title(words(corruption))
    for panel in axes[-1]:
        panel.set_xlabel("severity (0: clean)" if 0 in set(table["severity"]) else "severity")
    handles = [Line2D([], [], color=c, linestyle=line, marker=marker) for c, line, marker in looks.values()]
    legend_below(figure, handles, models)
    return figure


def _curve(panel: Axes, rows: pd.DataFrame, look: tuple[str, Any, str]) -> None:
    colour, line, marker = look
    panel.plot(rows["severity"], rows["value"], line, marker=marker, markersize=4, color=colour)
    panel.fill_between(rows["severity"], rows["ci_low"], rows["ci_high"], color=colour, alpha=0.18, linewidth=0)
