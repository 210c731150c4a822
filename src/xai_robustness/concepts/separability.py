"""Features of samples for the search of suspects, and how far a cluster stands apart in them."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import linalg

from xai_robustness.concepts.labelled import stratified_folds

INPUT_SIDE = 28
"""Heatmaps are averaged down to at most this many pixels a side before they are compared."""


def latent_features(relevances: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Relevances of a layer as shares: each row divided by the sum of its absolute values."""
    relevances = np.asarray(relevances, np.float64)
    return relevances / (np.abs(relevances).sum(1, keepdims=True) + 1e-10)


def input_features(heatmaps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n p"]:
    """Heatmaps divided by their total absolute relevance, averaged down to at most 28 x 28, flattened."""
    maps = torch.from_numpy(np.array(heatmaps, np.float64))
    maps = maps / (maps.abs().sum((1, 2), keepdim=True) + 1e-10)
    size = (min(maps.shape[1], INPUT_SIDE), min(maps.shape[2], INPUT_SIDE))
    return torch.nn.functional.adaptive_avg_pool2d(maps[:, None], size)[:, 0].flatten(1).numpy()


def principal_components(features: Float[np.ndarray, "n d"], count: int) -> Float[np.ndarray, "n q"]:
    """The first `count` principal components (N,q), fewer where there are not so many; signs are arbitrary."""
    x = features - features.mean(0)
    wide = x.shape[0] <= x.shape[1]
    gram = x @ x.T if wide else x.T @ x
    size, q = len(gram), min(count, x.shape[1], max(len(x) - 1, 1))
    values, vectors = linalg.eigh(gram, subset_by_index=[size - q, size - 1])
    return vectors * np.sqrt(np.maximum(values, 0)) if wide else x @ vectors


def fisher_projection(components: Float[np.ndarray, "n q"], inside: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Out-of-fold projection (N,) of samples on Fisher's discriminant between a cluster and the rest [Anders2022].

    Each fold is projected by the discriminant of the other folds, scaled to unit within-class deviation there and zero
    halfway between the class means, so that many dimensions do not make a separation.
    """
    projection = np.zeros(len(components))
    for train, test in stratified_folds(inside).split(components, inside):
        a, b = components[train][inside[train]], components[train][~inside[train]]
        within = (np.atleast_2d(np.cov(a.T)) + np.atleast_2d(np.cov(b.T))) / 2
        within += (1e-2 * np.trace(within) / len(within) + 1e-20) * np.eye(len(within))
        direction = np.linalg.solve(within, a.mean(0) - b.mean(0))
        direction /= max(float(np.sqrt(direction @ within @ direction)), 1e-20)
        projection[test] = (components[test] - (a.mean(0) + b.mean(0)) / 2) @ direction
    return projection


def separation(projection: Float[np.ndarray, " n"], inside: Bool[np.ndarray, " n"]) -> float:
    """Distance of the two means of a projection in pooled standard deviations; 0 where nothing varies."""
    spread = float(np.sqrt((projection[inside].var() + projection[~inside].var()) / 2))
    return float(projection[inside].mean() - projection[~inside].mean()) / spread if spread > 0 else 0.0


def gaussian_null(features: Float[np.ndarray, "n d"], rng: np.random.Generator) -> Float[np.ndarray, "n d"]:
    """Gaussian samples with the mean and covariance of `features`: the same spread, no clusters."""
    n, mean = len(features), features.mean(0)
    return mean + rng.standard_normal((n, n)) @ (features - mean) / np.sqrt(n)
