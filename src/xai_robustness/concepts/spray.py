"""The variants of SpRAy's first step: what of a heatmap is compared. Each gives features for the Euclidean distance."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float

from xai_robustness.concepts.separability import INPUT_SIDE, input_features
from xai_robustness.registry import Registry

HISTOGRAM_BINS = 256
SSIM_WINDOW = 7
SSIM_CONSTANTS = (0.01**2, 0.03**2)

INPUT_VARIANTS: Registry[Callable[[np.ndarray], np.ndarray]] = Registry("variant of SpRAy")
INPUT_VARIANTS.register("total")(input_features)


def _small(heatmaps: np.ndarray) -> np.ndarray:
    """Heatmaps averaged down to at most 28 x 28, float64 (N,H,W)."""
    maps = torch.from_numpy(np.array(heatmaps, np.float64))
    size = (min(maps.shape[1], INPUT_SIDE), min(maps.shape[2], INPUT_SIDE))
    return torch.nn.functional.adaptive_avg_pool2d(maps[:, None], size)[:, 0].numpy()


@INPUT_VARIANTS.register("absolute")
def absolute(heatmaps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n p"]:
    """Absolute relevance as shares of its total: where the evidence lies, for or against."""
    maps = _small(np.abs(heatmaps))
    return (maps / (maps.sum((1, 2), keepdims=True) + 1e-10)).reshape(len(maps), -1)


@INPUT_VARIANTS.register("histogram")
def histogram(heatmaps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n p"]:
    """Shares (N,256) of pixels by relevance between -1 and 1 of the heatmap's largest: what, and not where."""
    maps = np.array(heatmaps, np.float64)
    maps = maps / (np.abs(maps).max((1, 2), keepdims=True) + 1e-10)
    bins = np.minimum(((maps + 1) / 2 * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1).reshape(len(maps), -1)
    flat = (bins + HISTOGRAM_BINS * np.arange(len(maps))[:, None]).ravel()
    return np.bincount(flat, minlength=HISTOGRAM_BINS * len(maps)).reshape(len(maps), -1) / bins.shape[1]


@INPUT_VARIANTS.register("pearson")
def pearson(heatmaps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n p"]:
    """Heatmaps less their mean, of length 1: the squared distance of two is 2 (1 - their Pearson correlation)."""
    maps = _small(heatmaps).reshape(len(heatmaps), -1)
    maps = maps - maps.mean(1, keepdims=True)
    return maps / (np.linalg.norm(maps, axis=1, keepdims=True) + 1e-10)


@INPUT_VARIANTS.register("ssim")
def ssim_features(heatmaps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n q"]:
    """Coordinates (N,Q) whose distances are those of the structural similarity, sqrt(2 (1 - SSIM)) [Wang2004].

    Classical scaling of the matrix of all pairs; directions of negative eigenvalues are dropped. The cost grows with
    the square of the number of samples.
    """
    similarity = ssim_matrix(heatmaps)
    n = len(similarity)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(centring @ similarity @ centring)
    kept = values > 1e-9 * max(values[-1], 1e-300)
    return vectors[:, kept] * np.sqrt(values[kept])


def ssim_matrix(heatmaps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n n"]:
    """Mean structural similarity of every pair, symmetric, 1 on the diagonal; 7 x 7 windows, all inside the maps.

    Signals have windows of 1 x 7. Heatmaps are divided by their largest absolute value, so that the range of values is
    1 on each side; the constants are those of a range of 1.
    """
    small = _small(heatmaps)
    maps = torch.from_numpy(small / (np.abs(small).max((1, 2), keepdims=True) + 1e-10))
    window = [min(SSIM_WINDOW, side) for side in maps.shape[1:]]

    def local(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x[:, None], window, 1)[:, 0]

    means = local(maps)
    variances = local(maps**2) - means**2
    c1, c2 = SSIM_CONSTANTS
    rows = []
    for i in range(len(maps)):
        covariance = local(maps[i] * maps[i:]) - means[i] * means[i:]
        light = (2 * means[i] * means[i:] + c1) / (means[i] ** 2 + means[i:] ** 2 + c1)
        structure = (2 * covariance + c2) / (variances[i] + variances[i:] + c2)
        rows.append((light * structure).mean((1, 2)).numpy())
    matrix = np.zeros((len(maps), len(maps)))
    for i, row in enumerate(rows):
        matrix[i, i:] = matrix[i:, i] = row
    return matrix
