import numpy as np
import pytest

from xai_robustness.concepts.neurons import best_split, neuron_sets, null_statistics


def naive_split(values, min_size):
    best = None
    for cut in sorted(set(values))[1:]:
        low, high = values[values < cut], values[values >= cut]
        if min(len(low), len(high)) >= min_size:
            within = len(low) * low.var() + len(high) * high.var()
            if best is None or within < best[0] - 1e-12:
                best = within, values >= cut, (high.mean() - low.mean()) / np.sqrt((low.var() + high.var()) / 2)
    return best[1:]


@pytest.mark.parametrize("seed", range(5))
def test_the_split_equals_a_search_over_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=50) + 3 * (rng.random(50) < 0.3), 1 if seed % 2 else 9)
    above, statistic = best_split(values, 5)
    expected, distance = naive_split(values, 5)
    assert (above == expected).all() and statistic == pytest.approx(distance)


def test_a_split_needs_two_values_and_enough_samples():
    assert best_split(np.ones(20), 2)[1] == 0.0
    assert best_split(np.arange(5.0), 3)[1] == 0.0
    for low, high in ((0.0, 1.0), (0.1, 0.7), (-1 / 3, 3.0)):
        above, statistic = best_split(np.array([low] * 60 + [high] * 40), 4)
        assert above.sum() == 40 and statistic == np.inf


def layer(n=150, k=30, carriers=30, gap=4.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k))
    inside = np.arange(n) < carriers
    x[inside, 3:6] += gap
    x[inside, 9] -= gap
    x[:, 20] = 1.0
    return x, inside


def test_neurons_that_speak_of_the_same_samples_are_one_set_with_their_signs():
    x, inside = layer()
    first = neuron_sets(x, min_size=10)[0]
    assert set(first.neurons.tolist()) == {3, 4, 5, 9}
    signs = dict(zip(first.neurons.tolist(), first.signs.tolist()))
    assert signs[9] == -signs[3] == -1 and (first.inside == inside).mean() > 0.97
    assert first.activation[inside].mean() > first.activation[~inside].mean()


def test_the_statistic_of_a_planted_set_exceeds_the_null_and_pure_noise_does_not():
    x, _ = layer()
    null = null_statistics(x, 10, 5, np.random.default_rng(0))
    assert neuron_sets(x, 10)[0].statistic > 1.3 * max(null)
    noise = np.random.default_rng(1).normal(size=(150, 30)) @ np.random.default_rng(2).normal(size=(30, 30))
    null = null_statistics(noise, 10, 5, np.random.default_rng(0))
    assert max((s.statistic for s in neuron_sets(noise, 10)), default=0.0) < 1.3 * max(null)


def test_too_few_samples_or_neurons_give_no_set():
    x, _ = layer()
    assert (
        neuron_sets(x[:15], 10) == [] and neuron_sets(x[:, 20:21], 10) == [] and neuron_sets(np.ones((40, 5)), 4) == []
    )
