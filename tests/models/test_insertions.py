import pytest
import torch
from torch.nn.functional import normalize

from xai_robustness.models.insertions import INSERTIONS, Projection, SubspaceProjection
from xai_robustness.models.taps import pool
from xai_robustness.types import InputError


def direction(seed: int, k: int = 5) -> torch.Tensor:
    return normalize(torch.randn(k, generator=torch.Generator().manual_seed(seed)), dim=0)


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("shape", [(4, 5, 3, 3), (4, 5), (4, 5, 7)])
def test_score_becomes_the_target(pooling: str, shape: tuple[int, ...]) -> None:
    a = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    moved = Projection(direction(1), 0.7, pooling=pooling)(a)
    torch.testing.assert_close(pool(moved, pooling) @ direction(1), torch.full((4,), 0.7))
    assert moved.shape == a.shape


def test_only_the_direction_changes() -> None:
    a = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    difference = Projection(direction(1), 0.7)(a) - a
    across = direction(2) - (direction(2) @ direction(1)) * direction(1)
    torch.testing.assert_close(torch.einsum("bkhw,k->bhw", difference, across), torch.zeros(4, 3, 3))
    torch.testing.assert_close(difference, difference[..., :1, :1].expand_as(difference), rtol=0, atol=1e-6)


def test_reactive_moves_only_the_samples_above_the_threshold() -> None:
    a = torch.randn(6, 5, 3, 3)
    v, condition = direction(1), direction(2)
    scores = pool(a, "max") @ condition
    intercept = -float(scores.median())
    moved = Projection(v, 0.0, condition, intercept)(a)
    fires = scores + intercept > 0
    assert 0 < fires.sum() < 6
    assert torch.equal(moved[~fires], a[~fires])
    torch.testing.assert_close(moved[fires], Projection(v, 0.0)(a[fires]))


def test_idle_where_the_score_is_the_target() -> None:
    a = torch.randn(1, 5, 3, 3)
    target = float(pool(a, "max") @ direction(1))
    torch.testing.assert_close(Projection(direction(1), target)(a), a)


@pytest.mark.parametrize("reactive", [False, True])
def test_rebuilt_from_config_and_state(reactive: bool) -> None:
    module = Projection(direction(1), 0.3, direction(2) if reactive else None, 0.1, "mean")
    again = INSERTIONS["Projection"].from_config(module.config())
    again.load_state_dict(module.state_dict())
    a = torch.randn(4, 5, 2, 2)
    assert torch.equal(again(a), module(a))
    assert again.config() == module.config()


def test_constant_is_what_the_output_has_beyond_scaling() -> None:
    module, a = Projection(direction(1), 0.9), torch.randn(3, 5, 2, 2)
    torch.testing.assert_close(2 * module(a) - module(2 * a), module.constant(a))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.ones(5), 0.0), "vector of length 1. Got shape"),
        ((torch.eye(2), 0.0), "vector of length 1"),
        ((direction(1), 0.0, torch.ones(4)), "condition_cav parameter of Projection must be of shape"),
        ((direction(1), 0.0, None, 0.0, "sum"), "must be max or mean"),
    ],
)
def test_bad_directions(arguments: tuple, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Projection(*arguments)


@pytest.mark.parametrize("pooling", ["max", "mean", "none"])
def test_all_scores_of_a_subspace_become_their_targets(pooling: str) -> None:
    a = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    size = 45 if pooling == "none" else 5
    cavs, targets = torch.stack([direction(1, size), direction(2, size)]), torch.tensor([0.7, -0.2])
    moved = SubspaceProjection(cavs, targets, pooling=pooling)(a)
    features = moved.flatten(1) if pooling == "none" else pool(moved, pooling)
    torch.testing.assert_close(features @ cavs.T, targets.expand(4, 2), atol=1e-5, rtol=0)
    shift = (moved - a).flatten(1) if pooling == "none" else (moved - a)[..., 0, 0]
    inside = shift @ torch.linalg.pinv(cavs) @ cavs
    torch.testing.assert_close(inside, shift, atol=1e-5, rtol=0)


def test_one_direction_is_the_plain_projection_and_a_repeated_one_does_no_harm() -> None:
    a = torch.randn(4, 5, 3, 3)
    wanted = Projection(direction(1), 0.7)(a)
    for n in (1, 2):
        module = SubspaceProjection(direction(1).expand(n, 5), torch.full((n,), 0.7))
        torch.testing.assert_close(module(a), wanted, atol=1e-5, rtol=0)


def test_a_reactive_subspace_leaves_the_others_to_the_bit_and_is_rebuilt() -> None:
    a, condition = torch.randn(6, 5, 3, 3), direction(3)
    scores = pool(a, "max") @ condition
    module = SubspaceProjection(
        torch.stack([direction(1), direction(2)]), torch.zeros(2), condition, -float(scores.median())
    )
    fires = scores - scores.median() > 0
    assert torch.equal(module(a)[~fires], a[~fires]) and not torch.equal(module(a)[fires], a[fires])
    again = INSERTIONS["SubspaceProjection"].from_config(module.config())
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(a), module(a)) and again.config() == module.config()
    plain = SubspaceProjection(direction(1)[None], torch.tensor([0.9]))
    torch.testing.assert_close(2 * plain(a) - plain(2 * a), plain.constant(a))


def test_bad_subspaces_are_refused() -> None:
    with pytest.raises(InputError, match="vectors of length 1 and M numbers"):
        SubspaceProjection(torch.ones(2, 5), torch.zeros(2))
    with pytest.raises(InputError, match="max, mean or none"):
        SubspaceProjection(direction(1)[None], torch.zeros(1), pooling="sum")
