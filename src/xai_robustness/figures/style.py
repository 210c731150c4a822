"""The look of every figure: colours safe for colour-blind readers, fonts, image tiles. Figures are never saved here."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xai_robustness.types import InputError

P = ParamSpec("P")

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GRAY = "#999999"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Okabe and Ito's colours [Okabe2008] but for yellow, which is too pale on white; pair them with MARKERS."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
CONDITION_COLOURS = {"clean": BLUE, "attacked": VERMILLION, "biased": GREEN}
DIVERGING = "RdBu_r"
"""Colour map of signed maps: red positive, blue negative, white zero."""

FONT = 10
STYLE: Any = {
    "font.size": FONT,
    "axes.titlesize": FONT + 1,
    "axes.labelsize": FONT,
    "legend.fontsize": FONT,
    "legend.frameon": False,
    "figure.titlesize": FONT + 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "figure.facecolor": "white",
}


def styled(make: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorator: draw with STYLE, whatever the caller's settings, and leave them as they were."""

    @wraps(make)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return make(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """A figure of this size in inches that lays out its parts without overlaps."""
    return Figure(figsize=(width, height), dpi=150, layout=layout)


def grid(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, Shaped[np.ndarray, "rows columns"]]:
    """A figure of rows x columns axes, each `width` x `height` inches, and the axes as an object array."""
    figure = new_figure(width * columns, height * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat:
        each.tick_params(labelsize=FONT - 1)
    return figure, axes


def tiles(
    rows: int, columns: int, width: float, height: float, margin: float
) -> tuple[Figure, Shaped[np.ndarray, "rows columns"]]:
    """Axes for images of `width` x `height` inches, close together, with `margin` inches for labels at the sides."""
    figure = new_figure(width * columns + margin, height * rows + 0.5, layout="compressed")
    return figure, figure.subplots(rows, columns, squeeze=False)


def blank(reason: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(5.0, 1.5)
    figure.text(0.5, 0.5, reason, ha="center", va="center", fontsize=FONT + 1)
    return figure


def map_bar(figure: Figure, axes: Shaped[np.ndarray, "rows columns"], drawn: Any, label: str) -> None:
    """A colour bar from -1 to 1 at the right of all axes, for maps drawn by `show_map`."""
    bar = figure.colorbar(drawn, ax=axes, location="right", shrink=0.6, aspect=30, ticks=[-1, 0, 1])
    bar.set_label(label)


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], columns: int = 6) -> None:
    """Put one legend under all axes, where it covers no data."""
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)))


def key(colour: str, marker: str = "o", **options: Any) -> Line2D:
    """A legend handle: a marker of this colour."""
    look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 7, "linestyle": "none", **options}
    return Line2D([], [], **look)


def colours_of(names: Sequence[Any]) -> dict[Any, str]:
    """A colour for each name, in order, going round when there are more names than colours."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def markers_of(names: Sequence[Any]) -> dict[Any, str]:
    """A marker for each name, in order."""
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}


def words(name: str) -> str:
    """A name of the code as words.

    Example:
        >>> words("balanced_accuracy"), words("auroc"), words("rr_clarc")
        ('balanced accuracy', 'AUROC', 'RR-ClArC')
    """
    return SPELLING.get(name, name.replace("_", " "))


def candidate_words(name: str) -> str:
    """The name of a corrected model as words.

    Example:
        >>> candidate_words("rr_clarc-layer2-1e6"), candidate_words("vanilla")
        ('RR-ClArC, layer2, 1e6', 'vanilla')
    """
    method, *details = name.split("-", maxsplit=2)
    return ", ".join([words(method), *details])


SPELLING: Mapping[str, str] = {
    "auroc": "AUROC",
    "macro_f1": "macro F1",
    "ssim": "SSIM",
    "spearman": "Spearman correlation",
    "topk_intersection": "top-k intersection",
    "rrr": "RRR",
    "rr_clarc": "RR-ClArC",
    "p_clarc": "P-ClArC",
    "reactive_p_clarc": "reactive P-ClArC",
    "jpeg_compression": "JPEG compression",
    "svm": "SVM",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "Integrated Gradients",
    "saliency": "Saliency",
    "input_x_gradient": "Input x Gradient",
}


def pixels(images: Any) -> Shaped[np.ndarray, "n h w c"]:
    """Images as matplotlib shows them: from uint8 (N,H,W,C) or floats (N,C,H,W) in [0,1], C 1 or 3.

    Signals, floats (N,1,T,C) of other C, become small pictures of their traces.
    """
    array = np.asarray(images)
    if array.ndim == 4 and array.dtype.kind == "f" and array.shape[1] == 1 and array.shape[-1] > array.shape[1] + 2:
        from xai_robustness.figures.ecg import trace_pictures

        if array.shape[2] > array.shape[-1]:
            return trace_pictures(array)
    if array.ndim != 4:
        raise InputError(f"Images of a figure must be of shape (N,H,W,C) or (N,C,H,W). Got {array.shape} instead.")
    shown = array if array.dtype == np.uint8 else np.moveaxis(array, 1, -1).clip(0, 1)
    if shown.shape[-1] not in (1, 3):
        raise InputError(
            f"Images of a figure must be uint8 (N,H,W,C) or floats (N,C,H,W) with 1 or 3 channels. "
            f"Got {array.dtype} of shape {array.shape} instead."
        )
    return np.repeat(shown, 3, axis=-1) if shown.shape[-1] == 1 else shown


def show_image(axes: Axes, image: Shaped[np.ndarray, "h w c"]) -> None:
    """Draw one image without ticks."""
    axes.imshow(image, interpolation="nearest")
    frame(axes)


def show_map(axes: Axes, values: Float[np.ndarray, "h w"], scale: float) -> Any:
    """Draw a signed map divided by `scale`, white at zero; returns the artist for a colour bar.

    The division comes first, so that maps of any magnitude keep their precision. A scale of 0 draws a blank map;
    values that are not finite are drawn gray.
    """
    shown = np.asarray(values, dtype=float) / (scale or 1.0)
    colours = matplotlib.colormaps[DIVERGING].with_extremes(bad=GRAY)
    drawn = axes.imshow(np.ma.masked_invalid(shown), cmap=colours, vmin=-1, vmax=1, **_fitted(shown))
    frame(axes)
    return drawn


def _fitted(values: np.ndarray) -> dict[str, Any]:
    """How a map fills its tile: pixels stay square, but the line of a signal is drawn as high as wide."""
    one_line = values.shape[0] == 1
    return {"interpolation": "nearest", "aspect": values.shape[1] if one_line else "equal"}


def show_mask(axes: Axes, mask: Shaped[np.ndarray, "h w"]) -> None:
    """Draw a boolean mask, white where true."""
    axes.imshow(np.asarray(mask, dtype=bool), cmap="gray", vmin=0, vmax=1, **_fitted(mask))
    frame(axes)


def frame(axes: Axes, colour: str = "#bbbbbb", width: float = 0.6) -> None:
    """Take the ticks away and put a thin frame around."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)


def row_title(axes: Axes, text: str) -> None:
    """Name a row of tiles at its left."""
    axes.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=6)


def peak(*maps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, " n"]:
    """Largest finite magnitude of each sample over all given maps; 0 where there is none."""
    sizes = [np.where(np.isfinite(m), np.abs(np.asarray(m, dtype=float)), 0.0).reshape(len(m), -1) for m in maps]
    return np.concatenate(sizes, axis=1).max(axis=1)


def rows_of(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of one metric, by its whole name or by the last part of `{split}/{condition}/{metric}`."""
    found = table[(table["metric"] == metric) | (table["metric"].str.rsplit("/", n=1).str[-1] == metric)]
    if found.empty:
        names = ", ".join(sorted(set(table["metric"].str.rsplit("/", n=1).str[-1])))
        raise InputError(f"The metric parameter of a figure must be one of: {names}. Got '{metric}' instead.")
    return found


def errors(rows: pd.DataFrame) -> Float[np.ndarray, "2 n"]:
    """Lengths of the error bars below and above the values; 0 where the interval is undefined."""
    value, low, high = (rows[name].to_numpy(dtype=float) for name in ("value", "ci_low", "ci_high"))
    return np.nan_to_num(np.stack([value - low, high - value]).clip(min=0))
