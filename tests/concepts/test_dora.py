import numpy as np
import pytest
import torch
from torch import nn

from xai_robustness.concepts.dora import (
    activation_vectors,
    directions_of,
    extreme_activation_distance,
    pairwise_distance,
    pattern_similarity,
    synthesize,
    top_references,
)
from xai_robustness.types import InputError


def naive_vectors(activations, scores, count):
    n, k = scores.shape
    vectors = np.zeros((k, k))
    for neuron in range(k):
        best = sorted(range(n), key=lambda row: -scores[row, neuron])[:count]
        for other in range(k):
            vectors[neuron, other] = sum(activations[row, other] for row in best) / count
    return vectors


def naive_distance(a, b):
    lengths = np.sqrt(a @ a) * np.sqrt(b @ b)
    return np.sqrt(max(1 - a @ b / lengths, 0) / 2) if lengths > 0 else 0.0


@pytest.fixture(scope="module")
def pooled():
    rng = np.random.default_rng(0)
    return np.maximum(rng.normal(size=(40, 7)), 0), rng.normal(size=(40, 7))


@pytest.mark.parametrize("by", [0, 1], ids=["activation", "relevance"])
def test_vectors_and_both_distances_equal_naive_loops(pooled, by):
    vectors = activation_vectors(pooled[0], top_references(pooled[by], 5))
    expected = naive_vectors(pooled[0], pooled[by], 5)
    np.testing.assert_allclose(vectors, expected, atol=1e-12)
    layerwise, pairs = extreme_activation_distance(vectors), pairwise_distance(vectors)
    for i in range(7):
        for j in range(7):
            if i != j:
                assert layerwise[i, j] == pytest.approx(naive_distance(expected[i], expected[j]), abs=1e-9)
                two = naive_distance(expected[i, [i, j]], expected[j, [i, j]])
                assert pairs[i, j] == pytest.approx(two, abs=1e-9)
    points = directions_of(vectors)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points[None], axis=-1), layerwise, atol=1e-7)


def test_distances_are_metric_like_and_dead_neurons_stay_quiet(pooled):
    vectors = activation_vectors(pooled[0], top_references(pooled[0], 3))
    vectors[2] = 0
    for distance in (extreme_activation_distance(vectors), pairwise_distance(vectors)):
        assert (distance >= 0).all() and (distance <= 1).all() and (np.diag(distance) == 0).all()
        np.testing.assert_array_equal(distance, distance.T)
        assert np.isfinite(distance).all()
    assert (extreme_activation_distance(vectors)[2] == 0).all()
    same = extreme_activation_distance(np.ones((3, 3)))
    assert np.allclose(same, 0, atol=1e-7)


def test_patterns_are_cosines_over_samples_of_neurons_that_speak(pooled):
    x = pooled[1].copy()
    x[:, 3] = 0
    similarity, alive = pattern_similarity(x)
    assert alive.tolist() == [0, 1, 2, 4, 5, 6]
    for a, i in enumerate(alive):
        for b, j in enumerate(alive):
            expected = x[:, i] @ x[:, j] / np.linalg.norm(x[:, i]) / np.linalg.norm(x[:, j])
            assert similarity[a, b] == pytest.approx(expected)


def brightness_model():
    """Two neurons: how red, and how dark, the image is somewhere."""
    conv = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0], conv.weight[1, :] = 1.0, -1.0
        conv.bias.copy_(torch.tensor([0.0, 3.0]))
    return nn.Sequential(conv, nn.ReLU())


def test_synthetic_images_reach_what_the_neuron_can_reach_and_settle():
    model = brightness_model().train()
    images, trace, converged = synthesize(model, "1", np.array([0, 1]), (3, 4, 4), seed=0, count=1, how="mean")
    assert images.shape == (2, 1, 3, 4, 4) and images.min() >= 0 and images.max() <= 1
    assert images[0, :, 0].mean() > 0.9 and images[1].mean() < 0.1
    last = np.array([[row[~np.isnan(row)][-1] for row in own] for own in trace])
    assert (last[0] > 0.9).all() and (last[1] > 2.7).all()
    assert model.training and all(p.grad is None for p in model.parameters())
    steps = (~np.isnan(trace)).sum(-1)
    assert (steps > 64).all() and (steps < 512).all() and converged.all()


def test_synthetic_images_follow_the_seed_and_not_the_batch():
    model = brightness_model()
    arguments = (model, "1", np.array([1, 0]), (3, 8, 8))
    first, *_ = synthesize(*arguments, seed=1, count=1, most_iterations=5)
    again, *_ = synthesize(*arguments, seed=1, count=1, most_iterations=5, batch_size=1)
    np.testing.assert_allclose(first, again, atol=1e-6)
    other, *_ = synthesize(*arguments, seed=2, count=1, most_iterations=5)
    assert np.abs(first - other).max() > 1e-3
    with pytest.raises(InputError, match="0 to 1"):
        synthesize(model, "1", np.array([2]), (3, 8, 8), seed=0, most_iterations=1)


def test_each_image_settles_on_its_own_and_a_silent_neuron_is_tried_from_louder_images():
    """Neurons: red; red beyond what grey noise has; one that nothing reaches. In one batch, or alone."""
    conv = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, 0] = 1.0
        conv.bias.copy_(torch.tensor([0.0, -0.7, -2.0]))
    model = nn.Sequential(conv, nn.ReLU())
    arguments = (model, "1", np.array([0, 1, 2]), (3, 8, 8))
    images, trace, converged = synthesize(*arguments, seed=0, count=2)
    assert converged.tolist() == [[True, True], [True, True], [False, False]]
    assert images[1, :, 0].max((1, 2)).min() > 0.95 and np.nanmax(trace[2]) == 0
    steps = (~np.isnan(trace)).sum(-1)
    assert len(np.unique(steps[:2])) > 1 and (steps[2] == 32).all()
    alone = synthesize(*arguments, seed=0, count=2, batch_size=1)
    np.testing.assert_allclose(images, alone[0], atol=1e-5)
    np.testing.assert_array_equal(steps, (~np.isnan(alone[1])).sum(-1))
    assert not synthesize(*arguments, seed=0, count=1, most_iterations=5)[2].any()
