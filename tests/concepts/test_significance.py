import numpy as np
import pytest
from scipy import stats

from xai_robustness.concepts.significance import benjamini_hochberg, extreme_p, monte_carlo_p


def test_adjusted_p_values_equal_scipy_and_leave_undefined_ones_out():
    p = np.random.default_rng(0).random(40) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))
    found = benjamini_hochberg(np.concatenate([p, [np.nan, np.nan]]))
    np.testing.assert_allclose(found[:40], stats.false_discovery_control(p))
    assert np.isnan(found[40:]).all() and len(benjamini_hochberg(np.zeros(0))) == 0


def test_the_false_discovery_rate_is_kept_where_nothing_is_there():
    rng = np.random.default_rng(0)
    flagged = [(benjamini_hochberg(rng.random(50)) < 0.1).any() for _ in range(400)]
    assert 0.05 < np.mean(flagged) < 0.15


def test_the_best_of_many_tests_are_adjusted_for_all_of_them():
    best = [np.sort(np.random.default_rng(seed).random(40))[:12] for seed in range(400)]
    found = np.array([[(benjamini_hochberg(p, tests) < 0.05).any() for tests in (40, 0)] for p in best])
    assert found[:, 0].mean() < 0.08 < 0.12 < found[:, 1].mean()
    np.testing.assert_allclose(benjamini_hochberg(best[0], 12), benjamini_hochberg(best[0]))


def test_a_monte_carlo_p_value_is_uniform_under_the_null_and_never_zero():
    rng = np.random.default_rng(0)
    p = [monte_carlo_p(*[(row := rng.random(20))[0], row[1:].tolist()]) for _ in range(500)]
    assert stats.kstest(p, "uniform").statistic < 0.12
    assert monte_carlo_p(9.0, [0.0] * 19) == pytest.approx(1 / 20)


def test_the_extreme_p_value_recovers_the_tail_that_many_maxima_were_drawn_from():
    null = stats.gumbel_r.ppf((np.arange(100) + 0.5) / 100, 2.0, 0.5).tolist()
    for value in (2.5, 3.5):
        assert extreme_p(value, null) == pytest.approx(stats.gumbel_r.sf(value, 2.0, 0.5), rel=0.3)
    assert extreme_p(1.0, [2.0, 2.0, 2.0]) == 1.0 and extreme_p(3.0, [1.0]) == 0.5


def test_the_extreme_p_value_of_few_maxima_is_not_too_small():
    draws = stats.gumbel_r.rvs(2.0, 0.5, size=(4000, 7), random_state=1)
    p = np.array([extreme_p(row[0], row[1:].tolist()) for row in draws])
    for level in (0.05, 0.01):
        assert 0.5 * level < (p <= level).mean() < 1.5 * level
