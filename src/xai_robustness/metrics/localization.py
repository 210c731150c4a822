"""How well a heatmap or a mask finds the true artifact region; NaN where that question has no answer."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

REFERENCE_SIZE = 224
"""Image side in pixels to which the constants of the widened mask refer."""


def is_localizable(truth: Bool[np.ndarray, "n h w"]) -> Bool[np.ndarray, " n"]:
    """Whether a true mask marks a region: neither nothing (no artifact) nor every pixel (brightness)."""
    flat = truth.reshape(len(truth), -1)
    return np.logical_and(flat.any(1), ~flat.all(1))


def artifact_relevance(
    heatmaps: Float[np.ndarray, "n h w"], truth: Bool[np.ndarray, "n h w"]
) -> Float[np.ndarray, " n"]:
    """Share of the positive relevance that lies inside the true mask, in [0,1].

    NaN where the heatmap has no positive relevance or the mask is empty or covers the whole image. This is the
    measure for heatmaps of a CAV; `absolute_artifact_relevance` is the one for heatmaps of a class [Pahde2025].

    Example:
        >>> heatmap = np.array([[[3.0, 1.0], [-5.0, 0.0]]])
        >>> artifact_relevance(heatmap, np.array([[[True, False], [True, False]]]))
        array([0.75])
    """
    return _share(np.maximum(heatmaps, 0), truth, truth)


def absolute_artifact_relevance(
    heatmaps: Float[np.ndarray, "n h w"], truth: Bool[np.ndarray, "n h w"]
) -> Float[np.ndarray, " n"]:
    """Share of the absolute relevance that lies inside the widened true mask, in [0,1] [Pahde2025].

    NaN where the heatmap is zero everywhere or the mask is empty or covers the whole image.
    """
    return _share(np.abs(heatmaps), widen(truth), truth)


def widen(truth: Bool[np.ndarray, "n h w"]) -> Bool[np.ndarray, "n h w"]:
    """Masks with a margin: blurred (standard deviation 8 px, kernel 41 px at 224 px, in proportion), cut at 0.3 max."""
    sigma = 8 * truth.shape[1] / REFERENCE_SIZE
    blurred = ndimage.gaussian_filter(truth.astype(np.float64), (0, sigma, sigma), truncate=20 / 8, mode="mirror")
    return blurred > 0.3 * np.maximum(blurred.max((1, 2), keepdims=True), 1e-12)


def iou(predicted: Bool[np.ndarray, "n h w"], truth: Bool[np.ndarray, "n h w"]) -> Float[np.ndarray, " n"]:
    """Intersection over union of masks, in [0,1]; NaN where the true mask is empty or covers the whole image.

    Example:
        >>> iou(np.array([[[True, True], [False, False]]]), np.array([[[True, False], [False, False]]]))
        array([0.5])
    """
    both = (predicted & truth).sum((1, 2))
    either = (predicted | truth).sum((1, 2))
    return np.where(is_localizable(truth), both / np.maximum(either, 1), np.nan)


def _share(weights: np.ndarray, region: np.ndarray, truth: np.ndarray) -> np.ndarray:
    weights = weights.astype(np.float64)
    total = weights.sum((1, 2))
    inside = (weights * region).sum((1, 2))
    defined = is_localizable(truth) & (total > 0)
    return np.where(defined, inside / np.where(defined, total, 1.0), np.nan)
