import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from tests.reference import concepts as naive
from torchvision.transforms.functional import gaussian_blur

from xai_robustness.metrics.localization import (
    absolute_artifact_relevance,
    artifact_relevance,
    iou,
    is_localizable,
    widen,
)


def masks(n=5, size=12):
    found = np.zeros((n, size, size), bool)
    for i in range(n):
        found[i, 1 : 4 + i, 2:7] = True
    return found


def test_relevance_equals_the_naive_share_and_stays_in_range():
    heatmaps = np.random.default_rng(0).normal(size=(5, 12, 12)).astype(np.float32)
    shares = artifact_relevance(heatmaps, masks())
    np.testing.assert_allclose(shares, [naive.artifact_relevance(h, m) for h, m in zip(heatmaps, masks())], rtol=1e-5)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_relevance_inside_alone_is_one_and_outside_alone_zero():
    truth = masks()
    np.testing.assert_array_equal(artifact_relevance(truth * 2.0, truth), 1)
    np.testing.assert_array_equal(artifact_relevance(~truth * 2.0 - truth, truth), 0)


def test_negative_relevance_counts_in_the_absolute_measure_alone():
    truth = masks(1)
    heatmap = np.where(truth, -3.0, 0.0)
    heatmap[0, 11, 11] = 1
    assert artifact_relevance(heatmap, truth)[0] == 0
    assert absolute_artifact_relevance(heatmap, truth)[0] == pytest.approx(45 / 46)


@pytest.mark.parametrize("measure", [artifact_relevance, absolute_artifact_relevance])
def test_undefined_shares_are_nan(measure):
    heatmaps = np.ones((3, 4, 4))
    truth = np.zeros((3, 4, 4), bool)
    truth[1], truth[2, 0, 0] = True, True
    heatmaps[2] = 0
    assert np.isnan(measure(heatmaps, truth)).all()


def test_iou_equals_scikit_learns_and_its_limits():
    rng = np.random.default_rng(0)
    predicted, truth = rng.random((6, 9, 9)) < 0.4, rng.random((6, 9, 9)) < 0.4
    expected = [jaccard_score(t.ravel(), p.ravel()) for p, t in zip(predicted, truth)]
    np.testing.assert_allclose(iou(predicted, truth), expected)
    np.testing.assert_array_equal(iou(truth, truth), 1)
    np.testing.assert_array_equal(iou(~truth, truth), 0)
    np.testing.assert_array_equal(iou(np.zeros_like(truth), truth), 0)


def test_masks_of_nothing_or_everything_have_no_iou():
    truth = np.stack([np.zeros((4, 4), bool), np.ones((4, 4), bool)])
    assert np.isnan(iou(truth, truth)).all() and not is_localizable(truth).any()


def test_widened_masks_are_the_blur_of_torchvision_at_224_and_grow_in_proportion():
    truth = np.zeros((2, 224, 224), bool)
    truth[0, 80:120, 60:100], truth[1, 200:224, :40] = True, True
    blurred = gaussian_blur(torch.from_numpy(truth).double(), 41, 8.0)
    expected = blurred > 0.3 * blurred.amax((1, 2), keepdim=True)
    assert (widen(truth) != expected.numpy()).mean() < 1e-3
    assert (widen(truth) >= truth).mean() > 0.999 and widen(truth).sum() > truth.sum()
    small = widen(truth[:, ::8, ::8])
    assert iou(small, widen(truth)[:, ::8, ::8]).min() > 0.75
    assert not widen(np.zeros((1, 8, 8), bool)).any()
