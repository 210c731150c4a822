"""Size, mean and scatter of a group of samples, which add up over blocks, and the linear systems of ridge and LDA."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack

SAFE = 1e-6
"""Share of the trace from which a shift makes a system of equations solvable in double precision."""
ROUNDING = 1e-14
"""Share of the trace below which a shift is lost in the rounding of the matrix."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What a group of samples contributes to a fit, whatever its size.

    Attributes:
        size: number of samples, at least 1.
        mean: float64 (K,).
        scatter: sum over the samples of the outer products of their deviations from the mean, float64 (K,K); or its
            diagonal alone (K,).
    """

    size: int
    mean: Float[np.ndarray, " k"]
    scatter: Float[np.ndarray, "k k"] | Float[np.ndarray, " k"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "n k"], diagonal: bool = False) -> "Moments":
        """Of samples in memory; `diagonal`: without the products of different features."""
        mean = x.mean(0)
        return cls(len(x), mean, _squares(x - mean, diagonal))

    @classmethod
    def joined(cls, parts: Sequence["Moments"]) -> "Moments":
        """Of the samples of all groups together, without the cancellation of sums of squares [Chan1983].

        Example:
            >>> x = np.arange(12.0).reshape(6, 2)
            >>> both = Moments.joined([Moments.of(x[:2]), Moments.of(x[2:])])
            >>> np.allclose(both.scatter, Moments.of(x).scatter)
            True
        """
        if len(parts) == 1:
            return parts[0]
        size = sum(part.size for part in parts)
        mean = np.sum([part.mean * (part.size / size) for part in parts], axis=0)
        gaps = np.stack([(part.mean - mean) * np.sqrt(part.size) for part in parts])
        scatter = _squares(gaps, parts[0].scatter.ndim == 1)
        for part in parts:
            scatter += part.scatter
        return cls(size, mean, scatter)


class Sides(NamedTuple):
    """Moments of the samples without and with the artifact."""

    clean: Moments
    artifact: Moments

    @property
    def difference(self) -> Float[np.ndarray, " k"]:
        """From the clean mean to that of the artifact (K,)."""
        return self.artifact.mean - self.clean.mean

    @property
    def middle(self) -> Float[np.ndarray, " k"]:
        """Halfway between the two means (K,)."""
        return (self.artifact.mean + self.clean.mean) / 2

    @property
    def within(self) -> Float[np.ndarray, "k k"]:
        """Sum of the covariances of both sides (K,K), each divided by its size: both count the same."""
        return self.clean.scatter / self.clean.size + self.artifact.scatter / self.artifact.size


def _lifted(matrix: np.ndarray, shift: float) -> np.ndarray:
    lifted = matrix.copy()
    lifted.flat[:: len(matrix) + 1] += shift
    return lifted


def _squares(a: np.ndarray, diagonal: bool) -> np.ndarray:
    return np.einsum("nk,nk->k", a, a) if diagonal else a.T @ a


def solve_positive(matrix: Float[np.ndarray, "k k"], right: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Solve matrix v = right by Cholesky's factor; by Gauss's where rounding leaves it not positive definite."""
    _, solved, failed = lapack.dposv(matrix.T, right)
    return np.asarray(np.linalg.solve(matrix, right) if failed else solved)


def shifted_solutions(
    matrix: Float[np.ndarray, "k k"], right: Float[np.ndarray, " k"], shifts: Float[np.ndarray, " s"]
) -> Float[np.ndarray, "s k"]:
    """Solve (matrix + shift I) v = right for all shifts, from one decomposition.

    The decomposition is matrix = Q T Q' with T tridiagonal, a quarter of the work of all eigenvectors. A single shift
    that is not tiny is one Cholesky solve. Shifts below the rounding of the matrix count as that.

    Args:
        matrix: symmetric, positive semidefinite.
        right: right-hand side.
        shifts: positive.

    Returns:
        Solutions (S,K).
    """
    size, trace = len(matrix), float(np.trace(matrix))
    if size < 2 or (len(shifts) == 1 and shifts[0] > SAFE * trace):
        return np.stack([solve_positive(_lifted(matrix, shift), right) for shift in shifts])
    packed, diagonal, beside, tau, _ = lapack.dsytrd(matrix.T, lower=1, lwork=64 * size)
    mirrors = packed[1:, :-1]  # Q leaves the first entry alone and is a product of reflections of the others
    turned = right[:, None].astype(np.float64)
    turned[1:] = lapack.dormqr("L", "T", mirrors, tau, turned[1:], 64)[0]
    tridiagonal = [lapack.dptsv(diagonal + s, beside, turned)[2] for s in np.maximum(shifts, ROUNDING * trace)]
    solved = np.concatenate(tridiagonal, axis=1)
    solved[1:] = lapack.dormqr("L", "N", mirrors, tau, solved[1:], 64 * len(shifts))[0]
    return solved.T
