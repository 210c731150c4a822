import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import jensenshannon
from scipy.stats import kendalltau, pearsonr, wasserstein_distance
from tests.metrics.test_agreement import A, B

from xai_robustness.metrics import agreement_pairs as pairs
from xai_robustness.metrics.agreement import AGREEMENTS, topk_intersection
from xai_robustness.metrics.agreement_maps import MapParams, prepare

NEW = ("cosine", "density", "kendall", "l2", "pearson", "rmse", "topk_jaccard", "wasserstein")


def scaled(x: np.ndarray) -> np.ndarray:
    x = np.maximum(x, 0)
    return (x - x.min()) / (x.max() - x.min())


def oracle(name: str, a: np.ndarray, b: np.ndarray) -> float:
    x, y = scaled(a), scaled(b)
    if name == "density":
        p, q = (uniform_filter(m, 3)[1:-1, 1:-1].clip(0).ravel() for m in (x, y))
        return 1 - jensenshannon(p, q)
    if name == "kendall":
        p, q = (torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(m)[None], (14, 14)).numpy() for m in (a, b))
        return kendalltau(p.ravel(), q.ravel()).statistic
    if name == "wasserstein":
        rows = wasserstein_distance(range(30), range(30), x.sum(1), y.sum(1)) / 30
        columns = wasserstein_distance(range(24), range(24), x.sum(0), y.sum(0)) / 24
        return (rows + columns) / 2
    if name == "topk_jaccard":
        p, q = (set(np.argsort(-m.ravel())[:72]) for m in (a, b))
        return len(p & q) / len(p | q)
    return {
        "l2": np.linalg.norm(x - y),
        "rmse": np.sqrt(((x - y) ** 2).mean()),
        "pearson": pearsonr(a.ravel(), b.ravel()).statistic,
        "cosine": (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b),
    }[name]


@pytest.mark.parametrize("name", NEW)
def test_agrees_with_scipy_and_brute_force(name):
    for a, b, value in zip(A.double().numpy(), B.double().numpy(), AGREEMENTS[name](A, B)):
        assert value.item() == pytest.approx(oracle(name, a, b), abs=1e-9)


@pytest.mark.parametrize("name", NEW)
def test_equal_maps_symmetry_units_and_degenerate_maps(name):
    best = 0.0 if name in pairs.DISTANCES else 1.0
    metric = AGREEMENTS[name]
    assert torch.allclose(metric(A, A), torch.full((5,), best, dtype=torch.float64), atol=1e-7)
    assert torch.allclose(metric(A, B), metric(B, A))
    assert ((metric(A, B) - best).abs() > 0.01).all()
    for scale in (1e-12, 1e-30, 1e6):
        assert torch.allclose(metric(A * scale, B), metric(A, B), atol=1e-5)
    a = A.clone()
    a[0], a[1, 3, 3] = 0, torch.nan
    assert metric(a, B).isnan().tolist() == [True, True, False, False, False]
    assert len(metric(A[:0], B[:0])) == 0


def test_disjoint_densities_have_the_least_agreement():
    a = torch.zeros(1, 20, 20)
    a[0, 2, 2] = 1
    assert pairs.density(a, a.flip(1, 2)).item() == pytest.approx(1 - np.sqrt(np.log(2)))


def test_jaccard_follows_from_the_intersection():
    common = topk_intersection(A, B)
    assert torch.allclose(pairs.topk_jaccard(A, B), common / (2 - common))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[2.0, 0.0]]),
        ({"before": "positive"}, [[2.0, 1.0]]),
        ({"after": "negative"}, [[0.0, 2.0]]),
        ({"channels": "mean", "after": "both"}, [[1.0, -1.0]]),
        ({"channels": "absolute"}, [[2.0, 4.0]]),
        ({"channels": "apart", "after": "both", "absolute": True}, [[1.0, 3.0], [1.0, 1.0]]),
    ],
)
def test_the_options_of_preparing_maps(options, expected):
    attribution = torch.tensor([[[[1.0, -3.0]], [[1.0, 1.0]]]])
    assert prepare(attribution, MapParams(**options))[0].tolist() == expected
