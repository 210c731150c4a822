"""Curves of training."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xai_robustness.figures.style import GRAY, PALETTE, grid, legend_below, styled, words

PANELS = ("loss", "accuracy", "auroc")
LOOK = {"train": (PALETTE[0], "-", "o"), "val": (PALETTE[1], "--", "s")}


@styled
def curves(history: pd.DataFrame, best_epoch: int | None = None) -> Figure:
    """Loss, accuracy and AUROC by epoch.

    Args:
        history: columns epoch, split (train, val), loss, accuracy, auroc; empty where a checkpoint was given.
        best_epoch: epoch whose weights were kept, marked by a line.
    """
    figure, axes = grid(1, len(PANELS), 3.6, 2.7)
    for panel, name in zip(axes[0], PANELS):
        for split, rows in history.groupby("split", sort=False):
            colour, line, marker = LOOK.get(str(split), (GRAY, ":", "^"))
            panel.plot(rows["epoch"], rows[name], line, marker=marker, markersize=4, color=colour, label=str(split))
        if best_epoch is not None:
            panel.axvline(best_epoch, color=GRAY, linewidth=1, zorder=0, label="kept epoch")
        panel.set(xlabel="epoch", title=words(name))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        panel.grid(axis="y")
        if history.empty:
            panel.text(
                0.5, 0.5, "no epoch:\nthe checkpoint was given", ha="center", va="center", transform=panel.transAxes
            )
            panel.set(xticks=[], yticks=[])
    legend_below(figure, *axes[0, 0].get_legend_handles_labels())
    return figure
