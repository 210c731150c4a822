"""The look that needs no network: do simple properties of an image already tell its label?"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from scipy import ndimage, stats

from xai_robustness.concepts.significance import benjamini_hochberg
from xai_robustness.metrics.ranking import auroc
from xai_robustness.registry import Registry

ASSOCIATION_COLUMNS = (
    "property",
    "class",
    "auroc",
    "mean_inside",
    "mean_outside",
    "p_value",
    "q_value",
    "flagged",
    "n",
)
LEVEL = 0.05
"""False-discovery rate over all properties and classes."""
LEAST_EFFECT = 0.1
"""Distance of the AUROC from one half from which an association is flagged: large sets make any difference certain."""

PROPERTIES: Registry[Callable[[np.ndarray], np.ndarray]] = Registry("image property")


def _gray(images: np.ndarray) -> np.ndarray:
    return images.mean(-1)


@PROPERTIES.register("brightness")
def brightness(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Mean intensity in [0,1]."""
    return images.mean((1, 2, 3))


@PROPERTIES.register("contrast")
def contrast(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Standard deviation of the gray values, in [0,0.5]."""
    return _gray(images).std((1, 2))


@PROPERTIES.register("saturation")
def saturation(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Mean of (max - min) / max over the channels, in [0,1]; 0 for gray images."""
    most = images.max(-1)
    return np.divide(most - images.min(-1), most, out=np.zeros_like(most), where=most > 0).mean((1, 2))


@PROPERTIES.register("border_darkness")
def border_darkness(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Mean gray value of the inner half less that of the four corners (each a fifth of the sides), in [-1,1]."""
    gray = _gray(images)
    h, w = gray.shape[1:]
    dy, dx = max(h // 5, 1), max(w // 5, 1)
    corners = [gray[:, :dy, :dx], gray[:, :dy, -dx:], gray[:, -dy:, :dx], gray[:, -dy:, -dx:]]
    inner = gray[:, h // 4 : h - h // 4, w // 4 : w - w // 4].mean((1, 2))
    return inner - np.mean([corner.mean((1, 2)) for corner in corners], axis=0)


@PROPERTIES.register("sharpness")
def sharpness(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Standard deviation of the Laplacian of the gray image [PechPacheco2000]."""
    gray = _gray(images)
    bent = ndimage.laplace(gray, axes=(1, 2))
    return bent.std((1, 2))


@PROPERTIES.register("text_edges")
def text_edges(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Share of pixels of thin bright or dark strokes: far from their surroundings' opening or closing, in [0,1].

    A stroke is what a 3 x 3 grayscale opening takes away or a closing fills by more than 0.2: writing, ticks, hairs.
    """
    gray = _gray(images)
    window = (1, 3, 3)
    bright = gray - ndimage.grey_opening(gray, window)
    dark = ndimage.grey_closing(gray, window) - gray
    return (np.maximum(bright, dark) > 0.2).mean((1, 2))


def image_properties(batches: Iterator[UInt8[np.ndarray, "b h w c"]]) -> pd.DataFrame:
    """Every registered property of every image, one row an image; batches keep memory flat.

    Args:
        batches: uint8 images.
    """
    parts = []
    for batch in batches:
        scaled = np.asarray(batch, np.float64) / 255
        parts.append({name: PROPERTIES[name](scaled) for name in PROPERTIES})
    return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)


def label_associations(
    properties: pd.DataFrame, labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n l"]
) -> pd.DataFrame:
    """How well each property alone tells each class from the rest, tested by the rank sum [Mann1947].

    Args:
        properties: of `image_properties`.
        labels: class of each image, or which of several labels it has.

    Returns:
        `ASSOCIATION_COLUMNS`, strongest first: AUROC (above 0.5: larger inside the class), means on both sides,
        two-sided p-value, its Benjamini-Hochberg adjustment over all rows, and `flagged`: adjusted below `LEVEL` and
        the AUROC at least `LEAST_EFFECT` from one half. An association says that the label can be told without a
        network, not that it is wrong to: the look at the images decides. AUROC and p-value are NaN for a property that
        does not vary or a class without samples on one side.
    """
    several = labels.ndim == 2
    sides = dict(enumerate(labels.T > 0)) if several else {int(c): labels == c for c in np.unique(labels)}
    rows = []
    for name, values in properties.items():
        x = values.to_numpy(float)
        for c, inside in sides.items():
            told = 0 < inside.sum() < len(x) and np.ptp(x) > 0
            area = auroc(x, inside) if told else float("nan")
            p = float(stats.mannwhitneyu(x[inside], x[~inside]).pvalue) if told else float("nan")
            means = [float(x[side].mean()) if side.any() else float("nan") for side in (inside, ~inside)]
            rows.append((name, c, area, *means, p, len(x)))
    columns = [c for c in ASSOCIATION_COLUMNS if c not in ("q_value", "flagged")]
    table = pd.DataFrame(rows, columns=columns)
    table["q_value"] = benjamini_hochberg(table["p_value"].to_numpy())
    effect = (table["auroc"] - 0.5).abs()
    table["flagged"] = (table["q_value"] < LEVEL) & (effect >= LEAST_EFFECT)
    order = np.lexsort((table["class"], table["property"], -effect.fillna(0)))
    return table.iloc[order].reset_index(drop=True)[list(ASSOCIATION_COLUMNS)]
