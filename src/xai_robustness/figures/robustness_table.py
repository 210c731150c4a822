"""The one table of a study as a figure: a panel a column, a line a model, with intervals."""

import pandas as pd
from matplotlib.figure import Figure

from xai_robustness.figures.style import BLACK, blank, candidate_words, colours_of, errors, grid, styled, words

COLUMNS = 5
"""Panels in a row."""


@styled
def table_figure(robustness_table: pd.DataFrame) -> Figure:
    """Values with 95 % intervals; a filled mark where the paired difference to the first model has p < 0.05."""
    if robustness_table.empty:
        return blank("Nothing was measured.")
    models = list(dict.fromkeys(robustness_table["model"]))
    metrics = list(dict.fromkeys(robustness_table["metric"]))
    colours = colours_of(models)
    columns = min(COLUMNS, len(metrics))
    figure, axes = grid(-(-len(metrics) // columns), columns, 2.1, 0.75 + 0.32 * len(models), sharey=True)
    for panel in axes.flat[len(metrics) :]:
        panel.set_visible(False)
    for panel, metric in zip(axes.flat, metrics):
        rows = robustness_table[robustness_table["metric"] == metric].set_index("model").reindex(models).reset_index()
        sizes = errors(rows)
        for place, row in rows.iterrows():
            sure = place == 0 or row["p_value"] < 0.05
            look = {"color": colours[row["model"]], "mfc": colours[row["model"]] if sure else "white"}
            panel.errorbar(row["value"], place, xerr=sizes[:, [place]], fmt="o", capsize=2, **look)
        panel.axvline(rows["value"].iloc[0], color=BLACK, linewidth=0.6, linestyle=":")
        _, condition, name = metric.split("/")
        panel.set_title(f"{words(condition)}\n{words(name)}")
        panel.grid(axis="x")
        panel.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(models)), [candidate_words(model) for model in models])
    axes[0, 0].set_ylim(len(models) - 0.5, -0.5)
    return figure
