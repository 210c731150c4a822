"""LRP once more, naively: one sample, float64 matrices found by probing, no autograd, rules written from the papers.

A network is a list of steps; each step maps a vector to its output and gives a function from relevance to relevance.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from xai_robustness.models.insertions import Projection
from xai_robustness.models.layers import Normalize, ResidualBlock

EPS = 1e-6
Back = Callable[[np.ndarray], np.ndarray]


def explain(model: nn.Sequential, image: torch.Tensor, target: int, flat_first: bool = True) -> list[np.ndarray]:
    """Relevances of one image (C,H,W) and of every top-level stage's output, in order."""
    exact = copy.deepcopy(model).double().eval()
    state = {"first": flat_first}
    values, backs = image.double().numpy(), []
    stages = _grouped(list(exact.children()))
    for stage in stages:
        values, back = _step(stage, values, state)
        backs.append(back)
    relevance = np.zeros_like(values)
    relevance[target] = values[target]
    found = [relevance]
    for stage, back in zip(reversed(stages), reversed(backs)):
        if isinstance(stage, tuple):
            found.insert(0, found[0])  # the batch norm's output and its input have the same relevance
        found.insert(0, back(found[0]))
    return found


def _grouped(modules: list[nn.Module]) -> list[nn.Module | tuple[nn.Module, nn.Module]]:
    """Layers with their batch norm as pairs."""
    grouped: list = []
    for module in modules:
        if isinstance(module, nn.BatchNorm2d) and grouped and isinstance(grouped[-1], nn.Conv2d):
            grouped[-1] = (grouped[-1], module)
        else:
            grouped.append(module)
    return grouped


def _chain(modules: list[nn.Module], x: np.ndarray, state: dict) -> tuple[np.ndarray, Back]:
    backs = []
    for stage in _grouped(modules):
        x, back = _step(stage, x, state)
        backs.append(back)

    def through(relevance: np.ndarray) -> np.ndarray:
        for back in reversed(backs):
            relevance = back(relevance)
        return relevance

    return x, through


def _step(stage, x: np.ndarray, state: dict) -> tuple[np.ndarray, Back]:
    if isinstance(stage, nn.Sequential):
        return _chain(list(stage.children()), x, state)
    if isinstance(stage, ResidualBlock):
        return _residual(stage, x, state)
    if isinstance(stage, tuple | nn.Conv2d | nn.Linear):
        return _weighted(stage, x, state)
    if isinstance(stage, nn.MaxPool2d):
        return _max_pool(stage, x)
    if isinstance(stage, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        return _epsilon_by_matrix(stage, x)
    if isinstance(stage, Projection):
        return _projection(stage, x)
    y = _apply(stage, x)
    assert isinstance(stage, nn.ReLU | Normalize | nn.Identity | nn.Flatten | nn.Dropout | nn.BatchNorm2d)
    return y, lambda relevance: relevance.reshape(x.shape)


def _apply(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(np.asarray(x))[None])[0].numpy()


def _matrix(function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (out, in) and constant of an affine function, by unit vectors."""
    constant = function(np.zeros(shape)).ravel()
    columns = []
    for i in range(int(np.prod(shape))):
        unit = np.zeros(int(np.prod(shape)))
        unit[i] = 1
        columns.append(function(unit.reshape(shape)).ravel() - constant)
    return np.stack(columns, axis=1), constant


def _stable(z: np.ndarray) -> np.ndarray:
    return z + EPS * np.where(z >= 0, 1, -1)


def _weighted(stage, x: np.ndarray, state: dict) -> tuple[np.ndarray, Back]:
    modules = stage if isinstance(stage, tuple) else (stage,)

    def function(values: np.ndarray) -> np.ndarray:
        for module in modules:
            values = _apply(module, values)
        return values

    matrix, constant = _matrix(function, x.shape)
    y = function(x)
    if state["first"]:
        state["first"] = False
        reach = _reach(modules[0], x.shape)
        return y, lambda r: (reach.T @ (r.ravel() / _stable(reach.sum(1)))).reshape(x.shape)
    products = matrix * x.ravel()[None]
    if isinstance(modules[0], nn.Linear):
        return y, lambda r: (products.T @ (r.ravel() / _stable(products.sum(1) + constant))).reshape(x.shape)
    positive = np.maximum(products, 0)
    total = _stable(positive.sum(1) + np.maximum(constant, 0))
    return y, lambda r: (positive.T @ (r.ravel() / total)).reshape(x.shape)


def _reach(module: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """1 where an output has an input in its window."""
    ones = copy.deepcopy(module)
    with torch.no_grad():
        ones.weight.fill_(1)
        if ones.bias is not None:
            ones.bias.fill_(0)
    return _matrix(lambda values: _apply(ones, values), shape)[0]


def _epsilon_by_matrix(module: nn.Module, x: np.ndarray) -> tuple[np.ndarray, Back]:
    matrix, constant = _matrix(lambda values: _apply(module, values), x.shape)
    products = matrix * x.ravel()[None]
    y = _apply(module, x)
    return y, lambda r: (products.T @ (r.ravel() / _stable(products.sum(1) + constant))).reshape(x.shape)


def _max_pool(module: nn.MaxPool2d, x: np.ndarray) -> tuple[np.ndarray, Back]:
    y = _apply(module, x)
    kernel, stride, padding = int(module.kernel_size), int(module.stride), int(module.padding)
    winners = []
    for c, i, j in np.ndindex(*y.shape):
        window = [
            (c, row, column)
            for row in range(i * stride - padding, i * stride - padding + kernel)
            for column in range(j * stride - padding, j * stride - padding + kernel)
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
        ]
        winners.append(max(window, key=lambda place: x[place]))

    def back(relevance: np.ndarray) -> np.ndarray:
        result = np.zeros_like(x)
        for place, amount in zip(winners, relevance.ravel()):
            result[place] += amount
        return result

    return y, back


def _residual(block: ResidualBlock, x: np.ndarray, state: dict) -> tuple[np.ndarray, Back]:
    left, back_left = _chain([getattr(block, name) for name in block.path], x, state)
    shortcut = block.downsample
    parts = list(shortcut.children()) if isinstance(shortcut, nn.Sequential) else [shortcut]
    right, back_right = _chain(parts, x, state)
    total = left + right

    def back(relevance: np.ndarray) -> np.ndarray:
        share = relevance / _stable(total)
        return back_left(left * share) + back_right(right * share)

    return np.maximum(total, 0), back


def _projection(module: Projection, x: np.ndarray) -> tuple[np.ndarray, Back]:
    """a' = a + (t - v·pool(a)) v, written as a matrix for the positions that the pooling takes."""
    v, target = module.cav.double().numpy(), float(module.target)
    flat = x.reshape(len(x), -1)
    weights = np.zeros((len(x), flat.size))  # pooled = weights @ a
    for k in range(len(x)):
        places = [flat[k].argmax()] if module.pooling == "max" else range(flat.shape[1])
        for place in places:
            weights[k, k * flat.shape[1] + place] = 1 / len(places)
    pooled = weights @ flat.ravel()
    moved = 1.0
    if module.reactive:
        moved = float(module.condition_cav.double().numpy() @ pooled + float(module.condition_intercept) > 0)
    spread = np.repeat(v, flat.shape[1])
    matrix = np.eye(flat.size) - moved * np.outer(spread, v @ weights)
    y = matrix @ flat.ravel() + moved * target * spread
    products = matrix * flat.ravel()[None]
    return y.reshape(x.shape), lambda r: (products.T @ (r.ravel() / _stable(y))).reshape(x.shape)
