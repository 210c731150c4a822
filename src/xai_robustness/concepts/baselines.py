"""What a concept vector is measured against: the best neuron, the best of 64 NMF parts, the best random direction."""

import warnings

import numpy as np
from jaxtyping import Bool, Float
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from xai_robustness.metrics.ranking import Ranking
from xai_robustness.randomness import numpy_rng, seed_for

N_DIRECTIONS = 64
NMF_ITERATIONS = 200


class Baseline:
    """One of `cav.BASELINES`: directions that know no label, of which the best is chosen with its sign.

    Args:
        name: neuron: the axes; nmf: the parts of a non-negative factorisation of the train features, at most 64
            (negative features count as 0) [Lee1999]; random: 64 Gaussian directions.
        train: features (N,K) of the train samples.
        seed: the run's seed.
        layer: names the random stream.

    Attributes:
        choice: number of the chosen direction and its sign, 1 or -1, once `choose` was called.
    """

    def __init__(self, name: str, train: Float[np.ndarray, "n k"], seed: int, layer: str) -> None:
        self.directions = {"neuron": _axes, "nmf": nmf_parts, "random": _random}[name](train, seed, layer)
        self.choice: tuple[int, int] | None = None

    def choose(self, features: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"]) -> tuple[int, int]:
        """The direction and sign with the best average precision, the first among equals; chosen once and for all."""
        self.choice = self.choice or best_direction(features @ self.directions.T, artifact)
        return self.choice

    def scores(self, features: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """Projection of features (N,K) on the chosen direction, times its sign."""
        assert self.choice is not None
        return self.choice[1] * (features @ self.directions[self.choice[0]])


def best_direction(projections: Float[np.ndarray, "n d"], artifact: Bool[np.ndarray, " n"]) -> tuple[int, int]:
    """Column and sign (1 or -1) whose scores have the best average precision; the first among equals."""
    once = np.ones((len(artifact), 1))
    signed = [
        (Ranking.of(s * column, artifact).average_precision(once)[0], s) for column in projections.T for s in (1, -1)
    ]
    best = int(np.argmax(np.round([value for value, _ in signed], 9)))
    return best // 2, signed[best][1]


def nmf_parts(train: Float[np.ndarray, "n k"], seed: int, layer: str) -> Float[np.ndarray, "d k"]:
    """Parts (D,K), D <= 64, each of length 1, of a non-negative factorisation; parts that vanish are left out.

    Features that are nowhere positive have one part, 0, which tells nothing.
    """
    x = np.maximum(np.asarray(train, np.float64), 0)
    state = seed_for(seed, "nmf", layer) % 2**32
    model = NMF(min(N_DIRECTIONS, *x.shape), init="random", random_state=state, max_iter=NMF_ITERATIONS)
    with warnings.catch_warnings():  # the directions are judged, not the residual
        warnings.simplefilter("ignore", ConvergenceWarning)
        parts = model.fit(x / (x.mean() or 1.0)).components_
    lengths = np.linalg.norm(parts, axis=1)
    kept = lengths > 0
    return parts[kept] / lengths[kept, None] if kept.any() else np.zeros((1, x.shape[1]))


def _axes(train: np.ndarray, seed: int, layer: str) -> np.ndarray:
    return np.eye(train.shape[1])


def _random(train: np.ndarray, seed: int, layer: str) -> np.ndarray:
    drawn = numpy_rng(seed, "random direction", layer).standard_normal((N_DIRECTIONS, train.shape[1]))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
