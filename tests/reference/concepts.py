"""Naive float64 versions of CAVs, the spectral embedding and localization metrics: loops and explicit inverses."""

import numpy as np


def balanced_ridge(x, artifact, strength):
    """Weighted normal equations with an intercept column that is not penalised."""
    n = len(x)
    weights = np.array([1 / np.sum(artifact == a) for a in artifact])
    weights = np.diag(weights / weights.max())
    design = np.hstack([x, np.ones((n, 1))])
    penalty = np.diag([strength] * x.shape[1] + [0.0])
    y = np.where(artifact, 1.0, -1.0)
    solution = np.linalg.inv(design.T @ weights @ design + penalty) @ design.T @ weights @ y
    return solution[:-1], solution[-1]


def signal(x, artifact):
    """cov(x_j, y) / var(y), one feature after the other."""
    y = np.where(artifact, 1.0, -1.0)
    return np.array([np.cov(x[:, j], y)[0, 1] / np.var(y, ddof=1) for j in range(x.shape[1])])


def spectral_embedding(x, n_neighbors, n_eigen):
    """Dense symmetric nearest-neighbour graph, all eigenpairs of D^-1/2 A D^-1/2."""
    n = len(x)
    edges = np.zeros((n, n))
    for i in range(n):
        distance = np.array([np.linalg.norm(x[i] - x[j]) if i != j else np.inf for j in range(n)])
        edges[i, np.argsort(distance)[:n_neighbors]] = 1
    affinity = (edges + edges.T) / 2
    root = np.diag(affinity.sum(1) ** -0.5)
    values, vectors = np.linalg.eigh(root @ affinity @ root)
    values, vectors = values[::-1][:n_eigen], vectors[:, ::-1][:, :n_eigen]
    return 1 - values, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), affinity


def artifact_relevance(heatmap, mask):
    inside = sum(max(heatmap[i, j], 0) for i in range(heatmap.shape[0]) for j in range(heatmap.shape[1]) if mask[i, j])
    return inside / np.maximum(heatmap, 0).sum()


def wilson(hits, n, z=1.959963984540054):
    """Roots of the quadratic (p - hits/n)^2 = z^2 p (1 - p) / n."""
    share = hits / n
    roots = np.roots([1 + z * z / n, -(2 * share + z * z / n), share**2])
    return share, min(roots.real), max(roots.real)
