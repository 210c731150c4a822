import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import DBSCAN
from sklearn.manifold import spectral_embedding as sklearn_embedding
from sklearn.metrics import adjusted_rand_score
from tests.reference import concepts as naive

from xai_robustness.concepts import embedding as module
from xai_robustness.concepts.embedding import (
    CLUSTERINGS,
    eigengap,
    groups_of,
    spectral_embedding,
    two_dimensional,
)
from xai_robustness.types import InputError


def blobs(sizes=(40, 25, 15), d=6, gap=3.0):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(len(sizes), d)) * gap
    x = np.vstack([rng.normal(size=(n, d)) + c for n, c in zip(sizes, centres)])
    return x, np.repeat(np.arange(len(sizes)), sizes)


def same_up_to_sign(a, b, tolerance):
    np.testing.assert_allclose(np.abs((a * b).sum(0)), (a * a).sum(0), atol=tolerance)


@pytest.mark.parametrize("n", [19, 23, 27, 28, 32])
def test_as_many_neighbours_as_samples_make_one_cluster(n):
    """All eigenvalues but one are then the same, at which LAPACK's fast algorithm fails for these n."""
    features = np.random.default_rng(0).standard_normal((n, 5))
    values, embedding = spectral_embedding(features, n, n - 1, 0)
    np.testing.assert_allclose(values, [0, *[n / (n - 1)] * (n - 2)], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1)


@pytest.mark.parametrize("dense_size", [600, 0], ids=["dense", "arpack"])
def test_embedding_equals_the_naive_one(dense_size, monkeypatch):
    monkeypatch.setattr(module, "DENSE_SIZE", dense_size)
    x, _ = blobs(gap=1.0)
    values, embedding = spectral_embedding(x, 10, 6, seed=0)
    naive_values, naive_embedding, _ = naive.spectral_embedding(x, 10, 6)
    np.testing.assert_allclose(values, naive_values, atol=1e-9)
    np.testing.assert_allclose(np.abs(embedding), np.abs(naive_embedding), atol=1e-6)
    same_up_to_sign(embedding, naive_embedding, 1e-6)


def test_embedding_agrees_with_scikit_learn_up_to_row_length():
    x, _ = blobs(gap=1.0)
    _, embedding = spectral_embedding(x, 10, 5, seed=0)
    affinity = naive.spectral_embedding(x, 10, 5)[2]
    theirs = sklearn_embedding(affinity, n_components=5, drop_first=False, eigen_solver="arpack", random_state=0)
    theirs = theirs * np.sqrt(affinity.sum(1))[:, None]
    theirs /= np.linalg.norm(theirs, axis=0)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(embedding), np.abs(theirs), atol=1e-4)


@pytest.mark.parametrize("dense_size", [600, 0], ids=["dense", "arpack"])
def test_embedding_equals_what_corelay_computed(dense_size, monkeypatch):
    """The fixture was made by CoRelAy in an environment of its own: `benchmarks/spray_side.py fixture`."""
    monkeypatch.setattr(module, "DENSE_SIZE", dense_size)
    theirs = json.loads((Path(__file__).parents[1] / "fixtures" / "corelay.json").read_text())
    wanted = np.array(theirs["embedding"])
    values, embedding = spectral_embedding(np.array(theirs["features"]), theirs["n_neighbors"], wanted.shape[1], seed=0)
    np.testing.assert_allclose(values, theirs["eigenvalues"], atol=1e-9)
    np.testing.assert_allclose(embedding * np.sign((embedding * wanted).sum(0)), wanted, atol=1e-7)


def test_rows_have_length_one_and_the_first_eigenvalue_is_zero():
    values, embedding = spectral_embedding(blobs()[0], 10, 8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1)
    assert values[0] == pytest.approx(0, abs=1e-9) and (np.diff(values) >= -1e-12).all()


def test_separate_components_give_as_many_zero_eigenvalues_and_clusters_find_them():
    x, group = blobs(gap=60.0)
    values, embedding = spectral_embedding(x, 8, 8, seed=0)
    assert (np.abs(values) < 1e-9).sum() == 3
    count, gap = eigengap(values, 8)
    assert count == 3 and gap > 0.05
    labels = CLUSTERINGS["kmeans"](embedding, [count], 5, 0)[0]
    assert all(len(np.unique(labels[group == g])) == 1 for g in range(3)) and len(np.unique(labels)) == 3
    (dense,) = CLUSTERINGS["hdbscan"](x, [], 5, 0)
    assert len(np.unique(dense[dense >= 0])) == 3 and all(len(np.unique(group[dense == d])) == 1 for d in range(3))
    (near,) = CLUSTERINGS["dbscan"](embedding, [2], 5, 0)
    np.testing.assert_array_equal(near, DBSCAN(0.2, min_samples=5).fit_predict(embedding))
    assert all(len(np.unique(group[near == d])) == 1 for d in range(near.max() + 1))
    (joined,) = CLUSTERINGS["agglomerative"](embedding, [3, 999], 5, 0)
    assert len(np.unique(joined)) == 3 and all(len(np.unique(group[joined == d])) == 1 for d in range(3))


@pytest.mark.parametrize("count", [8, 14, 20])
def test_the_iteration_finds_every_component(count, monkeypatch):
    """Fourteen components: Lanczos' iteration alone finds seven of their eigenvectors."""
    x, group = blobs((50,) * 14, gap=40.0)
    dense, _ = spectral_embedding(x, 10, count, seed=0)
    monkeypatch.setattr(module, "DENSE_SIZE", 0)
    values, embedding = spectral_embedding(x, 10, count, seed=0)
    np.testing.assert_allclose(values, dense, atol=1e-9)
    assert (np.abs(values) < 1e-9).sum() == min(count, 14) and len(values) == count
    if count >= 14:
        labels = CLUSTERINGS["kmeans"](embedding, [14], 5, 0)[0]
        assert adjusted_rand_score(labels, group) == 1


def test_the_same_seed_gives_the_same_numbers(monkeypatch):
    monkeypatch.setattr(module, "DENSE_SIZE", 0)
    x, _ = blobs(gap=1.0)
    np.testing.assert_array_equal(spectral_embedding(x, 10, 4, 3)[1], spectral_embedding(x, 10, 4, 3)[1])
    np.testing.assert_allclose(spectral_embedding(x, 10, 4, 3)[1], spectral_embedding(x, 10, 4, 4)[1], atol=1e-6)


def test_small_sets_use_fewer_neighbours_and_eigenpairs():
    values, embedding = spectral_embedding(np.random.default_rng(0).normal(size=(5, 3)), 32, 32, seed=0)
    assert len(values) == 4 and embedding.shape == (5, 4)


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.array([[0.0], [np.nan], [1.0], [2.0]])])
def test_too_few_or_undefined_features_are_one_sentence(bad):
    with pytest.raises(InputError, match="spectral_embedding must be finite and of at least 3 samples"):
        spectral_embedding(bad, 4, 4, seed=0)


def test_eigengap_is_bounded():
    values = np.array([0, 0.01, 0.02, 0.5, 0.51, 0.9])
    assert eigengap(values, 8) == (3, pytest.approx(0.48))
    assert eigengap(values, 2) == (2, pytest.approx(0.01))
    assert eigengap(values[:1], 8) == (2, 0.0)


def test_groups_leave_out_noise_small_clusters_and_everything():
    groups = groups_of(np.array([-1, 0, 0, 0, 1, 2, 2, 2]), 3)
    assert [int(g.sum()) for g in groups] == [3, 3]
    assert groups_of(np.zeros(9, int), 3) == []
    assert [len(groups_of(np.repeat([0, -1], [9, rest]), 3)) for rest in (2, 3)] == [0, 1]


@pytest.mark.parametrize("method", ["tsne", "eigenvectors"])
@pytest.mark.parametrize("n", [3, 30])
def test_layout_has_two_finite_columns(method, n):
    embedding = spectral_embedding(np.random.default_rng(0).normal(size=(n, 4)), 5, 5, seed=0)[1]
    points = two_dimensional(embedding, method, seed=0)
    assert points.shape == (n, 2) and np.isfinite(points).all()
    np.testing.assert_array_equal(points, two_dimensional(embedding, method, seed=0))


def test_umap_is_an_extra_that_says_so_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="umap-learn is not installed"):
        two_dimensional(np.eye(10), "umap", seed=0)
