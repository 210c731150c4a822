import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from xai_robustness.concepts.outliers import find_outliers, outlier_factor
from xai_robustness.concepts.significance import extreme_p
from xai_robustness.types import InputError


def naive_factor(x, k):
    distance, neighbours = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()
    density = np.array(
        [1 / np.mean([max(distance[j, -1], d) for j, d in zip(neighbours[i], distance[i])]) for i in range(len(x))]
    )
    return np.array([density[neighbours[i]].mean() / density[i] for i in range(len(x))])


def test_the_factor_equals_its_definition():
    x = np.random.default_rng(0).normal(size=(60, 4))
    np.testing.assert_allclose(outlier_factor(x, 10), naive_factor(x, 10), rtol=1e-6)


def test_planted_outliers_are_significant_and_their_neighbours_are_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    x[:4] += np.eye(5)[:4] * 12
    found = find_outliers(x, rng)
    assert (found.q_value[:4] < 0.05).all() and (found.q_value[4:] < 0.05).sum() <= 2
    assert (found.factor[:4] > found.null_largest.max()).all()
    assert (np.argsort(-found.factor)[:4] < 4).all()


def test_gaussian_data_hardly_ever_have_an_outlier():
    flagged = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        flagged.append((find_outliers(rng.normal(size=(120, 3)), rng, n_null=19).q_value < 0.05).any())
    assert np.mean(flagged) <= 0.25


def test_the_largest_factor_has_a_p_value_that_is_not_too_small_at_few_null_sets():
    p = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = find_outliers(rng.normal(size=(60, 5)), rng, n_null=6)
        p.append(extreme_p(found.factor.max(), found.null_largest.tolist()))
    assert np.mean(np.array(p) < 0.1) <= 0.2 and np.mean(np.array(p) < 0.5) >= 0.3


def test_few_rows_use_fewer_neighbours_and_bad_rows_are_one_sentence():
    rng = np.random.default_rng(0)
    assert np.isfinite(find_outliers(rng.normal(size=(5, 2)), rng, n_null=3).factor).all()
    with pytest.raises(InputError, match="Got 2 rows"):
        find_outliers(np.zeros((2, 2)), rng)
