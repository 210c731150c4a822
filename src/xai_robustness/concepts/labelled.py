"""Labelled samples as a fit reads them: block by block from memory or a store, with the moments of both sides."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import linalg
from scipy.linalg import lapack
from sklearn.model_selection import StratifiedKFold

from xai_robustness.concepts.moments import Moments, Sides
from xai_robustness.types import InputError

BLOCK = 2**20
"""Numbers (samples times features) that are in memory at once."""
RANK = 1e-12
"""Share of the largest squared length below which what is left of the samples counts as rounding."""

Scaling = Literal["global", "centered", "max", "second_moment", "none"]


class Table(Protocol):
    """Features (N,K) that are read when sliced: a NumPy array, a memory map, an array of the latents store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,K)."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Rows as something that becomes an array (n,K)."""
        ...


def blocks(features: Table) -> Iterator[tuple[slice, Float[np.ndarray, "n k"]]]:
    """Consecutive rows and their features in float64, at most `BLOCK` numbers at once."""
    n, k = features.shape
    step = max(1, BLOCK // max(k, 1))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        yield rows, np.asarray(features[rows], np.float64)


def balanced_weights(artifact: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Sample weights (N,) in (0,1], inversely proportional to the size of the class; the rarer class weighs 1."""
    sizes = np.array([(~artifact).sum(), artifact.sum()], np.float64)
    return (sizes.min() / sizes)[artifact.astype(int)]


def stratified_folds(artifact: Bool[np.ndarray, " n"], n_folds: int = 5) -> StratifiedKFold:
    """Folds that each hold both classes: as many as `n_folds`, fewer where a class is small, at least two."""
    smallest = int(min(artifact.sum(), (~artifact).sum()))
    return StratifiedKFold(max(2, min(n_folds, smallest)), shuffle=True, random_state=0)


@dataclass(eq=False)
class Labelled:
    """Features (N,K) of samples with and without the artifact.

    What is cached does not grow with the number of samples: one pass gives the class means and variances, another the
    scatter matrices of every fold and class, 2 x folds x K^2 numbers. `values` alone reads all samples at once.

    Attributes:
        features: as they are stored.
        artifact: which samples carry the artifact.
        layer: named in errors.
        centre: subtracted from the features (K,); a number where they are taken as they are.
        scale: what they are then divided by (K,); a number where they are taken as they are.
        width: number of features that a variance is averaged over; None: K. It differs from K in `in_span`.
    """

    features: Table
    artifact: Bool[np.ndarray, " n"]
    layer: str = ""
    centre: Float[np.ndarray, " k"] | float = 0.0
    scale: Float[np.ndarray, " k"] | float = 1.0
    width: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples and of features."""
        return self.features.shape[0], self.features.shape[1]

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "n k"]]]:
        """Rows and their centred and scaled features; InputError at a block that is not finite."""
        for rows, x in blocks(self.features):
            if not np.isfinite(x).all():
                raise InputError(
                    f"The features parameter of fit_cav must be finite. Got {int((~np.isfinite(x)).sum())} other "
                    f"values in layer '{self.layer}' instead: check the classifier's training."
                )
            yield rows, x if isinstance(self.scale, float) else (x - self.centre) / self.scale

    @cached_property
    def values(self) -> Float[np.ndarray, "n k"]:
        """All centred and scaled features at once, for the fits that need every sample."""
        parts = [x for _, x in self.blocks()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def outside(self, fold: int | None) -> tuple[Float[np.ndarray, "m k"], Bool[np.ndarray, " m"]]:
        """All `values` and labels outside of a fold, or all there are."""
        kept = self.fold != fold if fold is not None else slice(None)
        return self.values[kept], self.artifact[kept]

    @cached_property
    def fold(self) -> Int[np.ndarray, " n"]:
        """The fold (N,) in which a sample is held out of the cross-validation."""
        fold = np.empty(len(self.artifact), int)
        for number, (_, test) in enumerate(stratified_folds(self.artifact).split(self.artifact, self.artifact)):
            fold[test] = number
        return fold

    def both(self, diagonal: bool = False) -> Sides:
        """Moments of both sides, with the diagonal of the scatter alone or all of it."""
        return _sides(self._moments(np.zeros(len(self.artifact), int), diagonal))

    @cached_property
    def spread(self) -> Sides:
        """Means and variances of both sides."""
        return self.both(diagonal=True)

    @cached_property
    def _folds(self) -> dict[tuple[int, bool], Moments]:
        return self._moments(self.fold, diagonal=False)

    def sides(self, without: int | None = None) -> Sides:
        """Moments of both sides, of all samples or of those outside of a fold."""
        return _sides({key: part for key, part in self._folds.items() if key[0] != without})

    def _moments(self, group: np.ndarray, diagonal: bool) -> dict[tuple[int, bool], Moments]:
        """Moments of the samples of every group and side, by one pass."""
        found: dict[tuple[int, bool], list[Moments]] = defaultdict(list)
        for rows, x in self.blocks():
            for number in np.unique(group[rows]):
                for side in (False, True):
                    inside = (group[rows] == number) & (self.artifact[rows] == side)
                    if inside.any():
                        so_far = found[int(number), side]
                        so_far[:] = [Moments.joined([*so_far, Moments.of(x[inside], diagonal)])]
        return {key: part for key, (part,) in found.items()}

    def scaled(self, scaling: Scaling) -> "Labelled":
        """The same samples under a scaling of `fit_cav`; features that are always 0 stay."""
        k = self.shape[1]
        every = Moments.joined(self.spread)
        variance = every.scatter / every.size
        centre = every.mean if scaling in ("global", "centered") else np.zeros(k)
        scale = {
            "global": lambda: np.full(k, np.sqrt(variance.mean())),
            "max": lambda: np.max([np.abs(x).max(0) for _, x in self.blocks()], axis=0),
            "second_moment": lambda: np.sqrt(variance + every.mean**2),
        }.get(scaling, lambda: np.ones(k))()
        return Labelled(self.features, self.artifact, self.layer, centre, np.where(scale > 0, scale, 1.0))

    def in_span(self) -> tuple["Labelled", Callable[[np.ndarray], np.ndarray]]:
        """Fewer samples than features: the samples in R <= N orthonormal coordinates of their span, and the way back.

        A pivoted Cholesky factor of the sample Gram matrix holds the coordinates. The way back takes a direction in
        these coordinates (R,) to one of the features (K,).
        """
        x = self.values
        factor, pivots, rank, _ = lapack.dpstrf((x @ x.T).T, lower=1, tol=RANK * float((x**2).sum(1).max()))
        order, lower = pivots - 1, np.tril(factor)[:, :rank]
        coordinates, kept = np.empty_like(lower), x[order[:rank]]
        coordinates[order] = lower

        def back(direction: np.ndarray) -> np.ndarray:
            return kept.T @ linalg.solve_triangular(lower[:rank], direction, trans=1, lower=True)

        return Labelled(coordinates, self.artifact, self.layer, width=x.shape[1]), back


def _sides(parts: dict[tuple[int, bool], Moments]) -> Sides:
    return Sides(*(Moments.joined([m for (_, at), m in parts.items() if at == side]) for side in (False, True)))
