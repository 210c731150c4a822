"""Naive float64 re-implementations of the metrics: loops over replicates, samples and windows."""

import numpy as np


def repeated(rows_of: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`rows_of` with row i repeated weights[i] times: what a column of multiplicities stands for."""
    return np.repeat(rows_of, weights.astype(int), axis=0)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative, ties one half."""
    pairs = [float(p > q) + 0.5 * float(p == q) for p in scores[positive] for q in scores[~positive]]
    return float(np.mean(pairs)) if pairs else float("nan")
