from itertools import permutations

import numpy as np
import pytest
import torch

from xai_robustness.metrics.ensembles import (
    RULES,
    borda,
    disagreements,
    dynamic_members,
    kemeny,
    normalised,
    pair_accuracy,
    preferences,
    schulze,
    static_members,
    theory_members,
)
from xai_robustness.types import InputError


def votes(n: int, voters: int, patches: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.argsort(rng.random((n, voters, patches)), axis=2))


STACK = votes(12, 5, 6)


def pairwise(sample: np.ndarray) -> np.ndarray:
    n = sample.shape[1]
    return np.array([[sum(v[i] < v[j] for v in sample) for j in range(n)] for i in range(n)])


def ordered(scores: np.ndarray) -> list[int]:
    return np.argsort(np.argsort(-scores, kind="stable")).tolist()


def test_borda_and_rank_fusion_agree_with_loops():
    fused = RULES["reciprocal_rank_fusion"](STACK)
    for sample, b, r in zip(STACK.numpy(), borda(STACK).tolist(), fused.tolist()):
        assert b == ordered(-sample.sum(0).astype(float))
        assert r == ordered(sum(1 / (60.0 + vote) for vote in sample))


@pytest.mark.parametrize("voters", [4, 5])
def test_schulze_agrees_with_floyd_and_warshall(voters):
    stack = votes(12, voters, 6, seed=voters)
    for sample, found in zip(stack.numpy(), schulze(stack).tolist()):
        d = pairwise(sample)
        p = np.where(d > d.T, d, 0)
        for k in range(6):
            for i in range(6):
                for j in range(6):
                    if i != j:
                        p[i, j] = max(p[i, j], min(p[i, k], p[k, j]))
        np.fill_diagonal(p, 0)
        assert found == ordered((p > p.T).sum(1).astype(float))


def test_kemeny_agrees_with_all_permutations_of_six():
    differs = 0
    for sample, ranks, by_borda in zip(STACK.numpy(), kemeny(STACK), borda(STACK)):
        wins = pairwise(sample)
        least = min(disagreements(np.array(order), wins) for order in permutations(range(6)))
        assert disagreements(ranks.argsort().numpy(), wins) == least
        differs += disagreements(by_borda.argsort().numpy(), wins) > least
    assert differs > 0, "Borda must not be Kemeny on every sample"


def test_local_search_is_near_the_exact_ranking_and_never_worse_than_borda(monkeypatch):
    exact = kemeny(STACK)
    monkeypatch.setattr("xai_robustness.metrics.ensembles.EXACT_UP_TO", 0)
    local, by_borda, gaps = kemeny(STACK), borda(STACK), []
    for sample, e, found, b in zip(STACK.numpy(), exact, local, by_borda):
        costs = [disagreements(r.argsort().numpy(), pairwise(sample)) for r in (e, found, b)]
        assert costs[0] <= costs[1] <= costs[2]
        gaps.append(costs[1] - costs[0])
    assert np.mean(gaps) < 0.5


def test_equal_voters_win_and_ranks_are_permutations():
    same = votes(3, 1, 40).expand(-1, 4, -1)
    for name in RULES:
        joined = RULES[name](same)
        assert torch.equal(joined, same[:, 0]), name
        assert torch.equal(RULES[name](votes(2, 3, 40)).sort(dim=1).values, torch.arange(40).expand(2, -1))


def test_preferences_count_voters():
    assert np.array_equal(preferences(STACK)[0].numpy(), pairwise(STACK[0].numpy()))


@pytest.mark.parametrize("scaling", ["zscore", "robust", "scaling"])
def test_normalised_means_forget_the_unit_of_an_explainer(scaling):
    scores = torch.rand(2, 3, 20, generator=torch.Generator().manual_seed(0)).double()
    scaled = scores * torch.tensor([1.0, 1e-9, 1e5])[:, None]
    for joining in ("mean", "max", "min"):
        assert torch.allclose(normalised(scores, scaling, joining), normalised(scaled, scaling, joining))
    assert torch.equal(normalised(torch.ones(1, 2, 5), scaling), torch.zeros(1, 5, dtype=torch.float64))
    with pytest.raises(InputError, match="zscore, robust or scaling"):
        normalised(scores, "none")  # type: ignore[arg-type]


def test_members_are_those_best_on_validation():
    quality = np.array([[0.9, 0.1], [0.4, 0.4], [0.2, 0.8]])
    assert static_members(quality, 1, top=True) == [1]
    assert static_members(quality, 2, top=False)[0] in (0, 2)
    assert dynamic_members(quality, 1, top=True) == [[2], [0]]
    with pytest.raises(InputError, match="from 1 to 3"):
        static_members(quality, 4, top=True)


def test_theory_keeps_who_orders_better_than_chance():
    rng = np.random.default_rng(0)
    truth = rng.random((30, 16))
    noisy, random, inverse = truth + rng.normal(0, 0.3, truth.shape), rng.random(truth.shape), -truth
    accuracy, slope = pair_accuracy(np.stack([noisy, random, inverse], axis=1), truth)
    assert accuracy[0] > 0.7 and abs(accuracy[1] - 0.5) < 0.05 and accuracy[2] == 0
    assert slope[0] > 0.1
    assert 0 in theory_members(accuracy, slope) and 2 not in theory_members(accuracy, slope)
    assert theory_members(np.array([0.2, 0.4]), np.zeros(2)) == [1]


def test_an_ensemble_of_nobody_is_refused():
    with pytest.raises(InputError, match="at least one explainer"):
        borda(STACK[:, :0])
