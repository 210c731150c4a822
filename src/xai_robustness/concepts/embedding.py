"""Spectral embedding of samples and the clusterings of it (SpRAy)."""

from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg, sparse
from scipy.sparse import csgraph
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering, KMeans
from sklearn.manifold import TSNE
from sklearn.neighbors import kneighbors_graph

from xai_robustness.randomness import numpy_rng, seed_for
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

DENSE_SIZE = 600
"""Up to this many samples the whole spectrum is computed densely, which is faster and sees repeated eigenvalues."""

Clustering = Callable[[np.ndarray, Sequence[int], int, int], list[np.ndarray]]
CLUSTERINGS: Registry[Clustering] = Registry("clustering")


def spectral_embedding(
    features: Float[np.ndarray, "n d"], n_neighbors: int, n_eigen: int, seed: int
) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, "n e"]]:
    """Embed samples by the symmetric normalised Laplacian of their nearest-neighbour graph [Lapuschkin2019].

    A = (B + B^T) / 2 of the binary Euclidean k-nearest-neighbour graph B; the largest eigenpairs of
    D^-1/2 A D^-1/2; rows scaled to length 1. Small sets use fewer neighbours and eigenpairs.

    Args:
        features: (N,D), at least 3 samples.
        n_neighbors: neighbours of each sample, itself not counted.
        n_eigen: eigenpairs E to keep.
        seed: the run's seed; it draws the start vector of the iteration.

    Returns:
        Eigenvalues (E,) of I - D^-1/2 A D^-1/2, ascending in [0,2], and the embedding float64 (N,E), signs fixed.

    Raises:
        InputError: fewer than 3 samples or features that are not finite.
    """
    n = len(features)
    if n < 3 or not np.isfinite(features).all():
        raise InputError(
            f"The features parameter of spectral_embedding must be finite and of at least 3 samples. Got {n} samples "
            f"and {int((~np.isfinite(features)).sum())} values that are not finite instead."
        )
    neighbours = kneighbors_graph(features, min(n_neighbors, n - 1))
    affinity = (neighbours + neighbours.T) / 2
    degree = np.asarray(affinity.sum(1)).ravel()
    root = sparse.diags_array(1 / np.sqrt(degree))
    values, vectors = _largest(root @ affinity @ root, degree, min(n_eigen, n - 1), seed)
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    return 1 - values, _unit_rows(vectors)


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _largest(matrix: sparse.sparray, degree: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenpairs of D^-1/2 A D^-1/2, descending.

    Where the graph falls apart, 1 is an eigenvalue of each part, with the roots of the part's degrees as its vector.
    The iteration would find only some of these, so it searches beside them.
    """
    n = matrix.shape[0]
    if n <= DENSE_SIZE or count > n // 4:
        values, vectors = _dense(matrix.toarray(), count)
    else:
        start = numpy_rng(seed, "spectral_embedding").standard_normal(n)
        parts, part = csgraph.connected_components(matrix, directed=False)
        if parts == 1:
            values, vectors = sparse.linalg.eigsh(matrix, k=count, which="LA", v0=start)
        else:
            values, vectors = _beside(matrix, _parts(part, degree, min(parts, count)), count, start)
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


def _parts(part: np.ndarray, degree: np.ndarray, count: int) -> np.ndarray:
    """Eigenvectors (N,C) with eigenvalue 1 of the largest parts of a graph."""
    largest = np.argsort(-np.bincount(part), kind="stable")[:count]
    vectors = (part[:, None] == largest) * np.sqrt(degree)[:, None]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=0))


def _beside(matrix: sparse.sparray, known: np.ndarray, count: int, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of `known`, whose eigenvalues are 1, and the largest ones beside them."""
    left, ones = count - known.shape[1], np.ones(known.shape[1])
    if left == 0:
        return ones, known

    def without(x: np.ndarray) -> np.ndarray:
        x = x.reshape(-1)
        return np.asarray(matrix @ x - known @ (known.T @ x))

    operator = sparse.linalg.LinearOperator(matrix.shape, matvec=without, dtype=np.float64)
    values, vectors = sparse.linalg.eigsh(operator, k=left, which="LA", v0=start - known @ (known.T @ start))
    return np.append(values, ones), np.hstack([vectors, known])


def _dense(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenpairs, ascending; the fast algorithm fails at times where nearly all eigenvalues are the same."""
    n = len(matrix)
    try:
        return linalg.eigh(matrix, subset_by_index=[n - count, n - 1])
    except linalg.LinAlgError:
        values, vectors = linalg.eigh(matrix, driver="evd")
        return values[-count:], vectors[:, -count:]


def eigengap(eigenvalues: Float[np.ndarray, " e"], at_most: int) -> tuple[int, float]:
    """Number of clusters in 2..`at_most` after which the ascending eigenvalues jump most, and that jump."""
    gaps = np.diff(eigenvalues)[1:at_most]
    return (2, 0.0) if len(gaps) == 0 else (int(gaps.argmax()) + 2, float(gaps.max()))


@CLUSTERINGS.register("kmeans")
def kmeans(embedding: Float[np.ndarray, "n e"], counts: Sequence[int], min_size: int, seed: int) -> list[np.ndarray]:
    """One clustering (N,) for each number k of clusters in `counts`, of the first k eigenvectors [Ng2001]."""
    state = seed_for(seed, "kmeans") % 2**32
    fits = (KMeans(k, n_init=4, random_state=state) for k in counts if k < len(embedding))
    return [fit.fit_predict(_unit_rows(embedding[:, : fit.n_clusters])) for fit in fits]


@CLUSTERINGS.register("hdbscan")
def hdbscan(embedding: Float[np.ndarray, "n e"], counts: Sequence[int], min_size: int, seed: int) -> list[np.ndarray]:
    """One density-based clustering (N,) with as many clusters as it finds; -1 marks noise [Campello2013]."""
    return [HDBSCAN(min_cluster_size=max(2, min_size), copy=True).fit_predict(embedding)]


@CLUSTERINGS.register("dbscan")
def dbscan(embedding: Float[np.ndarray, "n e"], counts: Sequence[int], min_size: int, seed: int) -> list[np.ndarray]:
    """One clustering (N,) for each k in `counts`, of radius k / 10 in the embedding; -1 marks noise [Ester1996]."""
    return [DBSCAN(eps=k / 10, min_samples=5).fit_predict(embedding) for k in counts]


@CLUSTERINGS.register("agglomerative")
def agglomerative(
    embedding: Float[np.ndarray, "n e"], counts: Sequence[int], min_size: int, seed: int
) -> list[np.ndarray]:
    """One clustering (N,) for each number k in `counts`, by Ward's linkage of the first k eigenvectors [Ward1963]."""
    fits = (AgglomerativeClustering(k) for k in counts if k < len(embedding))
    return [fit.fit_predict(_unit_rows(embedding[:, : fit.n_clusters])) for fit in fits]


def two_dimensional(
    embedding: Float[np.ndarray, "n e"], method: str, seed: int, metric: str = "correlation"
) -> Float[np.ndarray, "n 2"]:
    """Points (N,2) for a figure: t-SNE [vanderMaaten2008], UMAP [McInnes2018], or the second and third eigenvector.

    Args:
        embedding: (N,E) of `spectral_embedding`.
        method: "tsne", "umap" (15 neighbours, least distance 0.1) or "eigenvectors"; sets of fewer than 8 samples
            always use the eigenvectors.
        seed: the run's seed.
        metric: of UMAP; t-SNE's is Euclidean.

    Raises:
        InputError: umap without the package of that name.
    """
    if method == "umap" and len(embedding) >= 8:
        return _umap(embedding, seed, metric)
    if method == "tsne" and len(embedding) >= 8:
        state = seed_for(seed, "tsne") % 2**32
        perplexity = min(30.0, (len(embedding) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=state).fit_transform(embedding).astype(np.float64)
    points = np.zeros((len(embedding), 2))
    shown = embedding[:, 1:3]
    points[:, : shown.shape[1]] = shown
    return points


def _umap(embedding: np.ndarray, seed: int, metric: str) -> np.ndarray:
    try:
        umap = import_module("umap")
    except ImportError:
        raise InputError(
            "The layout parameter of reveal must be tsne or eigenvectors where umap-learn is not installed. Got umap. "
            "Install it with: pip install 'xai_robustness[umap]'."
        ) from None
    state = seed_for(seed, "umap") % 2**32
    neighbours = min(15, len(embedding) - 1)
    start = "spectral" if len(embedding) > 20 else "random"
    model = umap.UMAP(n_neighbors=neighbours, min_dist=0.1, metric=metric, random_state=state, n_jobs=1, init=start)
    return np.asarray(model.fit_transform(embedding), np.float64)


def groups_of(labels: Int[np.ndarray, " n"], min_size: int) -> list[np.ndarray]:
    """Members (boolean (N,)) of each cluster of at least `min_size` that is not noise and leaves at least 3 samples."""
    members = [labels == value for value in np.unique(labels) if value >= 0]
    return [inside for inside in members if min_size <= inside.sum() <= len(labels) - 3]
