import numpy as np
import pytest
from scipy import stats

from xai_robustness.metrics import bootstrap as module
from xai_robustness.metrics.bootstrap import (
    Resamples,
    bootstrap,
    mean_interval,
    once,
    percentile_interval,
    replicates,
)
from xai_robustness.types import InputError


def test_mean_interval_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=80)
    ours = mean_interval(values, n_boot=4000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(values.mean())
    assert abs(ours.low - theirs.low) < 0.05 * width
    assert abs(ours.high - theirs.high) < 0.05 * width


def test_mean_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    intervals = [mean_interval(rng.normal(size=50), n_boot=300, seed=i) for i in range(300)]
    covered = np.mean([low <= 0 <= high for _, low, high in intervals])
    assert 0.90 <= covered <= 0.98


def test_interval_of_a_constant_has_no_width():
    assert mean_interval(np.full(7, 0.25)) == (0.25, 0.25, 0.25)


def test_undefined_values_are_left_out_and_none_defined_is_undefined():
    assert mean_interval(np.array([1.0, np.nan, 3.0])) == mean_interval(np.array([1.0, 3.0]))
    assert np.isnan(mean_interval(np.array([np.nan, np.nan]))).all()
    assert np.isnan(mean_interval(np.array([]))).all()


def test_undefined_replicates_are_left_out():
    interval = percentile_interval(0.5, np.array([0.4, np.nan, 0.6]))
    assert interval.low == pytest.approx(0.405)
    assert interval.high == pytest.approx(0.595)
    assert np.isnan(percentile_interval(0.5, np.full(3, np.nan))[1:]).all()
    assert np.isnan(percentile_interval(np.nan, np.array([0.4, 0.6]))).all()


def test_every_replicate_keeps_the_size_of_every_stratum():
    strata = np.array([0] * 5 + [1] + [2] * 30)
    weights = np.concatenate(list(Resamples(strata, n_boot=50).blocks()), axis=1)
    assert weights.shape == (36, 50)
    for group in range(3):
        assert (weights[strata == group].sum(axis=0) == (strata == group).sum()).all()
    assert (weights[5] == 1).all()
    assert weights.std(axis=1)[strata == 2].min() > 0


def test_multiplicities_are_uniform():
    weights = np.concatenate(list(Resamples(np.zeros(20), n_boot=4000).blocks()), axis=1)
    assert np.abs(weights.mean(axis=1) - 1).max() < 0.06
    assert weights.var(axis=1).mean() == pytest.approx(1 - 1 / 20, abs=0.03)


def test_same_seed_same_resamples_other_seed_others():
    first, again, other = (next(Resamples(np.zeros(30), 10, seed).blocks()) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_blocks_bound_the_memory_and_differ(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 100)
    blocks = list(Resamples(np.zeros(30), n_boot=10).blocks())
    assert [block.shape for block in blocks] == [(30, 3), (30, 3), (30, 3), (30, 1)]
    assert (blocks[0] != blocks[1]).any()


def test_bootstrap_of_any_statistic_counts_each_replicate_once():
    x = np.arange(12.0)
    resamples = Resamples(np.zeros(12), n_boot=64)

    def mean(weights: np.ndarray) -> np.ndarray:
        return x @ weights / 12

    values = replicates(mean, resamples)
    interval = bootstrap(mean, resamples)
    assert values.shape == (64,)
    assert interval.value == mean(once(12))[0] == 5.5
    assert interval.low == pytest.approx(np.quantile(values, 0.025))


def test_bad_arguments_name_themselves():
    with pytest.raises(InputError, match=r"n_boot parameter of Resamples must be at least 1\. Got 0"):
        Resamples(np.zeros(3), n_boot=0)
    with pytest.raises(InputError, match="at least one sample"):
        Resamples(np.zeros(0))
