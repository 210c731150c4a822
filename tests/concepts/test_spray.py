import numpy as np
import pytest
from skimage.metrics import structural_similarity

from xai_robustness.concepts.separability import input_features
from xai_robustness.concepts.spray import INPUT_VARIANTS, ssim_matrix


@pytest.fixture(scope="module")
def maps():
    return np.random.default_rng(0).normal(size=(9, 12, 12)) * np.linspace(0.1, 5, 9)[:, None, None]


def test_every_variant_gives_finite_rows_that_ignore_the_scale_of_a_heatmap(maps):
    for name in INPUT_VARIANTS:
        x, scaled = INPUT_VARIANTS[name](maps), INPUT_VARIANTS[name](maps * 7.5)
        distance, other = (np.linalg.norm(a[:, None] - a[None], axis=-1) for a in (x, scaled))
        assert len(x) == 9 and np.isfinite(x).all()
        np.testing.assert_allclose(distance, other, atol=1e-6)
        assert np.isfinite(INPUT_VARIANTS[name](np.zeros((4, 8, 8)))).all()


def test_the_default_divides_by_the_total_and_absolute_drops_the_sign(maps):
    assert INPUT_VARIANTS["total"] is input_features
    np.testing.assert_allclose(INPUT_VARIANTS["absolute"](maps), np.abs(input_features(maps)), atol=1e-9)


def test_distances_of_pearson_features_are_those_of_the_correlation(maps):
    x = INPUT_VARIANTS["pearson"](maps)
    squared = ((x[:, None] - x[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared, 2 * (1 - np.corrcoef(maps.reshape(9, -1))), atol=1e-8)


def test_histograms_equal_numpy_for_every_heatmap(maps):
    found = INPUT_VARIANTS["histogram"](maps)
    for row, heatmap in zip(found, maps):
        expected, _ = np.histogram(heatmap / (np.abs(heatmap).max() + 1e-10), bins=256, range=(-1, 1))
        np.testing.assert_allclose(row, expected / 144)


def test_ssim_equals_scikit_image_and_its_coordinates_keep_the_distances(maps):
    matrix = ssim_matrix(maps)
    scaled = maps / np.abs(maps).max((1, 2), keepdims=True)
    for i, j in ((0, 1), (3, 8), (5, 5)):
        theirs = structural_similarity(scaled[i], scaled[j], win_size=7, data_range=1, use_sample_covariance=False)
        assert matrix[i, j] == pytest.approx(theirs, abs=1e-9) == pytest.approx(matrix[j, i], abs=1e-9)
    x = INPUT_VARIANTS["ssim"](maps)
    squared = ((x[:, None] - x[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared, 2 * (1 - matrix), atol=0.05)


def test_signals_differ_by_their_shape():
    wave = np.cos(np.pi * np.arange(28) / 2)
    other = np.sin(np.pi * np.arange(28) / 2) + 0.3
    matrix = ssim_matrix(np.stack([wave, other, wave])[:, None].astype(np.float32))
    scaled = other / np.abs(other).max()
    theirs = structural_similarity(wave, scaled, win_size=7, data_range=1, use_sample_covariance=False)
    assert matrix[0, 1] == pytest.approx(theirs, abs=1e-6) and abs(theirs) < 0.3 and matrix[0, 2] == pytest.approx(1)
