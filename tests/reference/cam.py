"""Class activation maps of one sample, written down in loops over channels and positions (NumPy, float64)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Array = np.ndarray


def grad_cam(a: Array, g: Array) -> Array:
    result = np.zeros(a.shape[1:])
    for k in range(len(a)):
        result += g[k].mean() * a[k]
    return np.maximum(result, 0)


def grad_cam_plus_plus(a: Array, g: Array) -> Array:
    result = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = 0.0
        for at in np.ndindex(a.shape[1:]):
            denominator = 2 * g[k][at] ** 2 + g[k][at] ** 3 * a[k].sum()
            alpha = g[k][at] ** 2 / denominator if denominator != 0 else 0.0
            weight += alpha * max(g[k][at], 0)
        result += weight * a[k]
    return np.maximum(result, 0)


def xgrad_cam(a: Array, g: Array) -> Array:
    result = np.zeros(a.shape[1:])
    for k in range(len(a)):
        if a[k].sum() != 0:
            result += (a[k] / a[k].sum() * g[k]).sum() * a[k]
    return np.maximum(result, 0)


def layer_cam(a: Array, g: Array) -> Array:
    result = np.zeros(a.shape[1:])
    for k in range(len(a)):
        for at in np.ndindex(a.shape[1:]):
            result[at] += max(g[k][at], 0) * a[k][at]
    return np.maximum(result, 0)


GRADIENT_MAPS = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "xgrad_cam": xgrad_cam,
    "layer_cam": layer_cam,
}


def cam(a: Array, weights: Array) -> Array:
    result = np.zeros(a.shape[1:])
    for k in range(len(a)):
        result += weights[k] * a[k]
    return np.maximum(result, 0)


def score_cam(model: nn.Module, image: Tensor, target: int, a: Array) -> Array:
    black = model(torch.zeros_like(image)[None])[0, target].item()
    scores = []
    for channel in a:
        mask = enlarge(channel, image.shape[1:])
        low, high = mask.min(), mask.max()
        mask = (mask - low) / (high - low) if high > low else torch.zeros_like(mask)
        scores.append(model((image * mask)[None])[0, target].item() - black)
    weights = np.exp(np.array(scores) - max(scores))
    return cam(a, weights / weights.sum())


def finer_score(logits: Tensor, target: int, alpha: float) -> Tensor:
    p = torch.exp(logits) / torch.exp(logits).sum()
    others = [i for i in range(len(logits)) if i != target]
    return sum(p[i] * (logits[target] - alpha * logits[i]) for i in others) / sum(p[i] for i in others)


def enlarge(small: Array, size: torch.Size) -> Tensor:
    mode = "bilinear" if small.ndim == 2 else "linear"
    return F.interpolate(torch.from_numpy(small)[None, None], size=size, mode=mode, align_corners=False)[0, 0]
