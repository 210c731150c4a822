import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor

from xai_robustness.metrics.agreement import AGREEMENTS, DEFAULT, agreement, min_max, spearman, ssim, topk_intersection
from xai_robustness.types import InputError

NAMES = DEFAULT


def maps(seed: int, n: int = 5, h: int = 30, w: int = 24) -> Tensor:
    noise = np.random.default_rng(seed).normal(size=(n, h, w))
    return torch.from_numpy(gaussian_filter(noise, (0, 1, 1))).float()


A, B = maps(0), 0.7 * maps(0) + 0.5 * maps(1)


def test_ssim_agrees_with_scikit_image():
    for a, b, value in zip(A.double().numpy(), B.double().numpy(), ssim(A, B)):
        x, y = (np.maximum(m, 0) / m.max() for m in (a, b))
        oracle = structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
        )
        assert value.item() == pytest.approx(oracle, abs=1e-10)


@pytest.mark.parametrize("levels", [3, 1000])
def test_spearman_agrees_with_scipy_with_and_without_ties(levels):
    a, b = (A * levels).round(), (B * levels).round()
    for x, y, value in zip(a.numpy(), b.numpy(), spearman(a, b)):
        assert value.item() == pytest.approx(spearmanr(x.ravel(), y.ravel()).statistic, abs=1e-12)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.37, 1.0])
def test_topk_agrees_with_sets_of_pixels(share):
    k = max(1, round(share * 720))
    for a, b, value in zip(A.numpy(), B.numpy(), topk_intersection(A, B, share)):
        best = [set(np.argsort(-m.ravel())[:k]) for m in (a, b)]
        assert value.item() == pytest.approx(len(best[0] & best[1]) / k)


@pytest.mark.parametrize("name", NAMES)
def test_a_map_agrees_with_itself_and_in_both_directions(name):
    assert torch.allclose(AGREEMENTS[name](A, A), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(AGREEMENTS[name](A, B), AGREEMENTS[name](B, A))
    assert (AGREEMENTS[name](A, B) < 0.99).all()


@pytest.mark.parametrize("scale", [1e-12, 1e-30, 1e6])
@pytest.mark.parametrize("name", NAMES)
def test_the_unit_of_a_map_does_not_matter(name, scale):
    assert torch.allclose(AGREEMENTS[name](A * scale, B), AGREEMENTS[name](A, B), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_degenerate_map_has_no_agreement(name):
    a = A.clone()
    a[0], a[1, 3, 3], a[2, 0, 0] = 0, torch.nan, torch.inf
    for values in (AGREEMENTS[name](a, B), AGREEMENTS[name](B, a), AGREEMENTS[name](a, a)):
        assert values.isnan().tolist() == [True, True, True, False, False]


def test_ssim_needs_a_positive_value():
    assert ssim(-A.abs(), B).isnan().all()
    assert spearman(-A.abs(), B).isfinite().all()


def test_spearman_of_the_reverse_is_minus_one():
    assert torch.allclose(spearman(A, -(A**3)), -torch.ones(5, dtype=torch.float64))


def test_disjoint_strongest_pixels_do_not_intersect():
    a = torch.zeros(1, 10, 10)
    a[0, 0] = torch.arange(1, 11)
    assert topk_intersection(a, a.flip(1)).item() == 0


def test_ties_for_the_last_place_share_it():
    a, b = torch.zeros(1, 4, 5), torch.zeros(1, 4, 5)
    a[0, 0, 0] = b[0, 0, 0] = 1
    value = topk_intersection(a, b, 0.1).item()
    assert value == pytest.approx(1.0)
    b[0, 3, 4] = 1
    assert topk_intersection(a, b, 0.1).item() == pytest.approx((1 + 1 / 19) / 2)


def test_independent_maps_intersect_at_chance():
    noise = torch.randn(2, 40, 50, 50, generator=torch.Generator().manual_seed(0))
    assert topk_intersection(*noise, 0.1).mean().item() == pytest.approx(0.1, abs=0.01)
    assert abs(spearman(*noise).mean().item()) < 0.01


def test_agreement_gives_every_default_value():
    values = agreement(A, B)
    assert tuple(values) == NAMES == ("spearman", "ssim", "topk_intersection")
    assert all(value.shape == (5,) and value.dtype == torch.float64 for value in values.values())
    assert all(len(value) == 0 for value in agreement(A[:0], B[:0]).values())


def test_inputs_stay_as_they_were():
    a, b = A.clone(), B.clone()
    agreement(a, b)
    assert torch.equal(a, A)
    assert torch.equal(b, B)


def test_min_max_scales_each_map():
    scaled = min_max(A.double())
    assert torch.equal(scaled.amin(dim=(1, 2)), torch.zeros(5))
    assert torch.equal(scaled.amax(dim=(1, 2)), torch.ones(5))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"heatmaps of spearman must be two tensors of one shape"):
        spearman(A, B[:3])
    with pytest.raises(InputError, match=r"at least 11 pixels high and wide\. Got \(8, 8\)"):
        ssim(A[:, :8, :8], B[:, :8, :8])
    with pytest.raises(InputError, match=r"share parameter of topk_intersection must be in \(0,1\]"):
        topk_intersection(A, B, 0.0)
