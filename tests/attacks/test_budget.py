import math

import pytest
import torch

from xai_robustness.attacks.budget import BUDGETS, make_budget
from xai_robustness.attacks.streams import Streams
from xai_robustness.types import InputError

X = torch.rand(5, 3, 8, 9, generator=torch.Generator().manual_seed(0))
G = torch.randn(5, 3, 8, 9, generator=torch.Generator().manual_seed(1))


def streams() -> Streams:
    return Streams(0, "test", range(5))


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.7), ("l2", 5.0)])
def test_projection_stays_within_and_leaves_what_is_within(norm: str, eps: float) -> None:
    budget = make_budget(norm, eps)
    far = budget.project(X + 10 * G, X)
    assert not budget.exceeded(far, X)
    assert (budget.distance(far, X) > 0.3 * eps).all()
    torch.testing.assert_close(budget.project(far, X), far, rtol=0, atol=0)
    near = (X + 1e-4 * G).clamp(0, 1)
    torch.testing.assert_close(budget.project(near, X), near, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_exceeded_notices(norm: str) -> None:
    budget = make_budget(norm, 0.1)
    assert not budget.exceeded(X, X)
    beyond = X.clone()
    beyond[2, 0, 0, 0] = beyond[2, 0, 0, 0] + (0.11 if beyond[2, 0, 0, 0] < 0.5 else -0.11)
    assert budget.exceeded(beyond, X)
    outside = X.clone()
    outside[0, 0, 0, 0] = -1e-3
    assert budget.exceeded(outside, outside)
    outside[0, 0, 0, 0] = math.nan
    assert budget.exceeded(outside, outside)


def test_linf_against_plain_loops() -> None:
    budget = make_budget("linf", 0.07)
    point = budget.project(budget.ascend(X, G, 0.2), X)
    for x, g, found in zip(X.flatten().tolist(), G.flatten().tolist(), point.flatten().tolist()):
        moved = x + 0.2 * ((g > 0) - (g < 0))
        assert found == pytest.approx(min(max(moved, x - 0.07, 0.0), x + 0.07, 1.0), abs=1e-6)


def test_l2_against_plain_loops() -> None:
    budget = make_budget("l2", 0.5)
    point = budget.project(budget.ascend(X, G, 3.0), X).double()
    for x, g, found in zip(X.double(), G.double(), point):
        step = 3.0 * g / math.sqrt(sum(v * v for v in g.flatten().tolist()))
        expected = (x + step * min(1.0, 0.5 / 3.0)).clamp(0, 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_random_within_and_follow_the_samples(norm: str) -> None:
    budget = make_budget(norm, 0.3)
    one, again = budget.start(X, streams()), budget.start(X, streams())
    assert torch.equal(one, again) and not budget.exceeded(one, X) and (budget.distance(one, X) > 0).all()
    part = budget.start(X[3:], streams().rows(torch.tensor([3, 4])))
    assert torch.equal(part, one[3:])


def test_l2_starts_are_uniform_in_the_ball() -> None:
    middle = torch.full((4000, 1, 1, 2), 0.5)
    radius = make_budget("l2", 0.4).distance(make_budget("l2", 0.4).start(middle, Streams(0, "t", range(4000))), middle)
    assert (radius / 0.4).square().mean().item() == pytest.approx(0.5, abs=0.02)  # r^2/eps^2 is uniform in the plane


def test_a_zero_gradient_does_not_move() -> None:
    for norm in BUDGETS:
        budget = make_budget(norm, 0.1)
        point = budget.encode(X)
        assert torch.equal(budget.ascend(point, torch.zeros_like(point), 0.1), point)


@pytest.mark.parametrize("width", [8, 9])
def test_fourier_points_stand_for_images(width: int) -> None:
    budget = make_budget("fourier")
    x = X[..., :width]
    torch.testing.assert_close(budget.decode(budget.encode(x)), x, rtol=0, atol=1.1e-3)
    wild = budget.decode(budget.encode(x) + 50)
    assert not budget.exceeded(wild, x)


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("linf", -0.1, "must be a finite number of at least 0. Got -0.1"),
        ("l2", -1, "at least 0"),
        ("l2", math.nan, "finite"),
        ("linf", 8, r"in \[0,1\], the unit of the images.*for 8 of 255 grey levels write 0.03137"),
        ("linf", 16.0, "write 0.06275"),
        ("lp", 1, "Unknown norm 'lp'"),
    ],
)
def test_bad_eps(norm: str, eps: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_budget(norm, eps)


@pytest.mark.parametrize("eps", [1, 5, 9])
def test_l2_radii_over_one_are_fine(eps: float) -> None:
    assert make_budget("l2", eps).eps == eps
