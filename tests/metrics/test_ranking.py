import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from tests.reference import metrics as naive

from xai_robustness.metrics.bootstrap import Resamples
from xai_robustness.metrics.ranking import Ranking, auroc, average_precision, average_precisions, ranking_intervals
from xai_robustness.types import InputError


def sample(levels: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(levels)
    positive = rng.random(n) < 0.3
    return rng.integers(0, levels, n) + positive * levels / 4, positive


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_scores_agree_with_scikit_learn_with_and_without_ties(levels):
    scores, positive = sample(levels)
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_a_weighting_means_repeated_samples(levels):
    scores, positive = sample(levels)
    ranking = Ranking.of(scores, positive)
    weights = next(Resamples(positive, n_boot=8).blocks())
    areas, precisions = ranking.auroc(weights), ranking.average_precision(weights)
    for column in range(8):
        s, p = (naive.repeated(array, weights[:, column]) for array in (scores, positive))
        assert areas[column] == pytest.approx(naive.auroc(s, p), abs=1e-12)
        assert precisions[column] == pytest.approx(average_precision_score(p, s), abs=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_precisions_of_several_scores_are_those_of_each(levels):
    (scores, positive), (others, _) = sample(levels), sample(3)
    both = average_precisions(np.stack([scores, others, -scores]), positive)
    np.testing.assert_allclose(both, [average_precision(s, positive) for s in (scores, others, -scores)], atol=1e-12)
    with pytest.raises(InputError, match="NaN"):
        average_precisions(np.full((2, 60), np.nan), positive)


def test_limits():
    positive = np.array([False, False, True, True])
    assert auroc(np.arange(4.0), positive) == average_precision(np.arange(4.0), positive) == 1
    assert auroc(-np.arange(4.0), positive) == 0
    assert auroc(np.zeros(4), positive) == average_precision(np.zeros(4), positive) == 0.5


def test_an_absent_class_is_undefined_not_zero():
    scores = np.arange(3.0)
    assert np.isnan(auroc(scores, np.zeros(3, bool)))
    assert np.isnan(auroc(scores, np.ones(3, bool)))
    assert np.isnan(average_precision(scores, np.zeros(3, bool)))
    assert average_precision(scores, np.ones(3, bool)) == 1
    assert np.isnan(ranking_intervals(scores, np.zeros(3, bool), n_boot=5)["auroc"]).all()


def test_intervals_contain_the_value():
    scores, positive = sample(10_000)
    for interval in ranking_intervals(scores, positive).values():
        assert interval.low < interval.value < interval.high
        assert interval.high - interval.low < 0.5


def test_bad_scores_are_refused():
    with pytest.raises(InputError, match="free of NaN"):
        Ranking.of(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(InputError, match="one score and one bool a sample"):
        Ranking.of(np.zeros(3), np.zeros(2, bool))
    with pytest.raises(InputError, match="one bool"):
        Ranking.of(np.zeros(2), np.array([1, 2]))


@pytest.mark.parametrize("decimals", [0, 8], ids=["ties", "no ties"])
def test_kendall_tau_equals_scipy_and_is_undefined_without_two_classes(decimals):
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.3
    scores = np.round(rng.normal(size=60) + positive, decimals)
    ranking = Ranking.of(scores, positive)
    assert ranking.kendall_tau(np.ones((60, 1)))[0] == pytest.approx(stats.kendalltau(scores, positive).statistic)
    kept = (rng.random(60) < 0.5).astype(float)
    expected = stats.kendalltau(scores[kept > 0], positive[kept > 0]).statistic
    assert ranking.kendall_tau(kept[:, None])[0] == pytest.approx(expected)
    assert np.isnan(ranking.kendall_tau(positive[:, None].astype(float))[0])
