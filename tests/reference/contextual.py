"""Naive contextual decomposition of one image through conv, ReLU, max pooling and linear, loops as written."""

import numpy as np


def share(region, rest, bias):
    """A bias, shared out by the absolute size of the two parts."""
    total = abs(region) + abs(rest)
    part = abs(region) / total if total else 0.0
    return region + bias * part, rest + bias * (1 - part)


def convolution(region, rest, weight, bias):
    """3-D arrays (C,H,W) through a convolution without padding."""
    out, _, h, w = weight.shape
    size = (out, region.shape[1] - h + 1, region.shape[2] - w + 1)
    found = np.zeros((2, *size))
    for k, i, j in np.ndindex(*size):
        parts = [float((weight[k] * part[:, i : i + h, j : j + w]).sum()) for part in (region, rest)]
        found[:, k, i, j] = share(*parts, bias[k])
    return found


def relu(region, rest):
    kept = np.maximum(region, 0)
    return kept, np.maximum(region + rest, 0) - kept


def max_pool(region, rest, size):
    """The part of each window's position where the sum is largest."""
    shape = (region.shape[0], region.shape[1] // size, region.shape[2] // size)
    found = np.zeros((2, *shape))
    for k, i, j in np.ndindex(*shape):
        window = np.s_[k, i * size : (i + 1) * size, j * size : (j + 1) * size]
        at = (region + rest)[window].argmax()
        found[:, k, i, j] = region[window].ravel()[at], rest[window].ravel()[at]
    return found


def linear(region, rest, weight, bias):
    return np.array([share(float(w @ region), float(w @ rest), b) for w, b in zip(weight, bias)]).T
