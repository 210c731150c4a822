import numpy as np
import pytest
from sklearn.decomposition import PCA

from xai_robustness.concepts.separability import (
    fisher_projection,
    gaussian_null,
    input_features,
    latent_features,
    principal_components,
    separation,
)


def test_latent_features_are_shares_and_input_features_are_pooled():
    relevance = np.array([[1.0, -3.0], [0.0, 0.0]])
    np.testing.assert_allclose(latent_features(relevance), [[0.25, -0.75], [0, 0]])
    heatmaps = np.random.default_rng(0).normal(size=(3, 56, 56))
    features = input_features(heatmaps)
    expected = heatmaps.reshape(3, 28, 2, 28, 2).mean((2, 4)) / np.abs(heatmaps).sum((1, 2))[:, None, None]
    np.testing.assert_allclose(features, expected.reshape(3, -1), rtol=1e-6)
    assert input_features(heatmaps[:, :12, :12]).shape == (3, 144)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_principal_components_equal_scikit_learns(shape):
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 4, shape[1])
    ours = principal_components(x, 5)[:, ::-1]
    np.testing.assert_allclose(np.abs(ours), np.abs(PCA(5, svd_solver="full").fit_transform(x)), rtol=1e-6, atol=1e-8)


def test_separation_of_shifted_groups_is_their_shift_and_of_a_random_split_nothing():
    rng = np.random.default_rng(0)
    x, inside = rng.normal(size=(2000, 5)), np.arange(2000) < 600
    assert abs(separation(fisher_projection(x, inside), inside)) < 0.25
    x[inside, 2] += 3
    assert separation(fisher_projection(x, inside), inside) == pytest.approx(3, abs=0.2)
    wide = rng.normal(size=(60, 40))
    chance = rng.permutation(60) < 20
    assert separation(fisher_projection(wide, chance), chance) < 1
    assert separation(np.ones(4), np.array([True, True, False, False])) == 0


def test_the_null_keeps_mean_and_covariance():
    x = np.random.default_rng(0).gamma(1.0, size=(3000, 3)) * [1, 2, 3]
    null = gaussian_null(x, np.random.default_rng(1))
    np.testing.assert_allclose(null.mean(0), x.mean(0), atol=0.2)
    np.testing.assert_allclose(np.cov(null.T), np.cov(x.T), atol=0.6)
