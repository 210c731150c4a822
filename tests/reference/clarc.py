"""Naive corrections: one sample at a time, equations as written, gradients by finite differences."""

import numpy as np


def p_clarc(activation, vector, target):
    """a' = a + (target - v . max over positions of a) v, for one activation (K,H,W)."""
    pooled = np.array([channel.max() for channel in activation])
    shift = target - sum(v * x for v, x in zip(vector, pooled))
    moved = activation.copy()
    for k in range(len(vector)):
        moved[k] += shift * vector[k]
    return moved


def gradient(function, x, step=1e-6):
    """Central differences of a scalar function at x, any shape, float64."""
    result = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result


def latent_penalty(gradients, vector, aggregation):
    """The six ways to compare latent gradients (B,K,H,W) with a direction (K,)."""

    def compare(g):
        dot = sum(v * x for v, x in zip(vector, g))
        if aggregation.startswith("l2"):
            return dot**2
        if aggregation.startswith("l1"):
            return abs(dot)
        return abs(dot) / (np.sqrt((g**2).sum()) * np.sqrt((vector**2).sum()))

    values = []
    for sample in gradients:
        positions = [sample[:, i, j] for i in range(sample.shape[1]) for j in range(sample.shape[2])]
        if aggregation.endswith("mean"):
            values.append(compare(sum(positions) / len(positions)))
        else:
            values.append(np.mean([compare(position) for position in positions]))
    return np.mean(values)


def cosine(heat, mask):
    """Cosine of two maps (H,W)."""
    a, b = np.asarray(heat, float).ravel(), np.asarray(mask, float).ravel()
    return (a @ b) / np.sqrt((a @ a) * (b @ b))


def gap_recovered(clean_reference, attacked_reference, attacked):
    return (attacked - attacked_reference) / (clean_reference - attacked_reference)
