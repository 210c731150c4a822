"""The outcome of a study over several seeds."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xai_robustness.figures.style import BLACK, BLUE, GRAY, VERMILLION, candidate_words, grid, legend_below, styled

ACCURACIES = {"clean": (BLUE, "o", -0.2), "attacked": (VERMILLION, "s", 0.1)}
QUANTITIES = ("clean", "attacked", "gap_recovered")


@styled
def summary(table: pd.DataFrame, results: pd.DataFrame | None = None) -> Figure:
    """Means over seeds with intervals: clean and attacked balanced accuracy, and the share of the gap recovered.

    Args:
        table: one row a candidate: candidate, seeds (their number) and, for clean, attacked and gap_recovered, the mean
            and the bounds `_low` and `_high` (NaN with one seed).
        results: one row a candidate and seed with the same quantities, drawn as small dots below; None leaves them out.
    """
    figure, axes = grid(1, 2, 5.2, 0.34 * len(table) + 0.9, sharey=True, width_ratios=(1.4, 1))
    left, right = axes[0]
    for name, (colour, marker, offset) in ACCURACIES.items():
        _dots(left, table, name, colour, marker, offset, results)
    _dots(right, table, "gap_recovered", BLACK, "D", 0.0, results)
    for value in (0.0, 1.0):
        right.axvline(value, color=GRAY, linewidth=1, linestyle=":")
    left.set(xlabel="test balanced accuracy", yticks=range(len(table)), ylim=(len(table) - 0.4, -0.6))
    left.set_yticklabels([candidate_words(str(name)) for name in table["candidate"]])
    right.set_xlabel("share of the gap recovered")
    right.set_xlim(*_limits(table))
    for panel in (left, right):
        panel.grid(axis="both")
    seeds = int(table["seeds"].max()) if len(table) else 0
    left.set_title(f"mean over {seeds} seeds, 95 % intervals" if seeds > 1 else "one seed, no intervals")
    legend_below(figure, *left.get_legend_handles_labels())
    return figure


def _dots(
    panel: Axes, table: pd.DataFrame, name: str, colour: str, marker: str, offset: float, results: pd.DataFrame | None
) -> None:
    places = np.arange(len(table)) + offset
    value, low, high = (table[column].to_numpy(dtype=float) for column in (name, f"{name}_low", f"{name}_high"))
    spread = np.nan_to_num(np.stack([value - low, high - value]).clip(min=0))
    look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "capsize": 2.5, "markersize": 5}
    panel.errorbar(value, places, xerr=spread, label=f"{name.replace('_', ' ')} images", zorder=3, **look)
    if results is not None:
        at = dict(zip(table["candidate"], places))
        own = results[results["candidate"].isin(at)]
        panel.scatter(own[name], own["candidate"].map(at) + 0.17, s=10, color=colour, alpha=0.6, linewidth=0, zorder=2)


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Bounds that hold every interval, but no more than (-1, 2): with a gap near zero the share can be anything."""
    columns = ["gap_recovered", "gap_recovered_low", "gap_recovered_high"]
    values = table[columns].to_numpy(dtype=float).ravel()
    values = np.append(values[np.isfinite(values)], (0.0, 1.0))
    return max(values.min() - 0.08, -1.0), min(values.max() + 0.08, 2.0)
