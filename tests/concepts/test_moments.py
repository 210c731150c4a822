import numpy as np
import pytest

from xai_robustness.concepts.moments import Moments, Sides, shifted_solutions, solve_positive


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_joined_parts_are_the_whole(diagonal, offset):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)) * rng.uniform(0.5, 2, 6) + offset
    whole = Moments.of(x, diagonal)
    parts = [Moments.of(part, diagonal) for part in np.split(x, [1, 20, 23])]
    one_by_one = parts[0]
    for part in parts[1:]:
        one_by_one = Moments.joined([one_by_one, part])
    expected = 50 * np.cov(x.T, bias=True)
    for found in (whole, Moments.joined(parts), one_by_one):
        assert found.size == 50
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.scatter, np.diag(expected) if diagonal else expected, rtol=1e-8, atol=1e-8)


def test_both_sides_count_the_same():
    rng = np.random.default_rng(1)
    few, many = rng.normal(size=(5, 3)), rng.normal(size=(40, 3)) + 2
    sides = Sides(Moments.of(many), Moments.of(few))
    np.testing.assert_allclose(sides.difference, few.mean(0) - many.mean(0))
    np.testing.assert_allclose(sides.middle, (few.mean(0) + many.mean(0)) / 2)
    np.testing.assert_allclose(sides.within, np.cov(few.T, bias=True) + np.cov(many.T, bias=True))


@pytest.mark.parametrize("size", [1, 2, 3, 40])
@pytest.mark.parametrize("count", [1, 6])
def test_every_shift_solves_its_system(size, count):
    rng = np.random.default_rng(2)
    a, right = rng.normal(size=(60, size)), rng.normal(size=size)
    shifts = np.logspace(3, -5, count) if count > 1 else np.array([1e-9])  # tiny: not by Cholesky
    kept = (a.T @ a).copy()
    found = shifted_solutions(a.T @ a, right, shifts)
    assert found.shape == (count, size)
    for shift, solution in zip(shifts, found):
        np.testing.assert_allclose(np.linalg.solve(kept + shift * np.eye(size), right), solution, rtol=1e-8, atol=1e-12)


def test_a_singular_matrix_has_solutions_for_the_smallest_shift():
    a = np.random.default_rng(3).normal(size=(4, 30))
    gram, right = a.T @ a, a.T @ np.ones(4)
    found = shifted_solutions(gram, right, np.array([1.0, 1e-30]))[1]
    np.testing.assert_allclose(gram @ found, right, rtol=1e-6)


def test_what_cholesky_cannot_solve_gauss_does():
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])  # not positive definite
    np.testing.assert_allclose(solve_positive(matrix, np.array([3.0, 3.0])), [1.0, 1.0])
