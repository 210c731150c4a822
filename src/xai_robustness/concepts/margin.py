"""Linear support vector machines for all strengths of regularisation, by Newton steps that reach the exact optimum."""

import numpy as np
from jaxtyping import Bool, Float

from xai_robustness.concepts.moments import solve_positive

MOST_STEPS, MOST_HALVINGS = 60, 30


def svm_path(
    x: Float[np.ndarray, "n k"], artifact: Bool[np.ndarray, " n"], strengths: Float[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, "s k"], Float[np.ndarray, " s"]]:
    """Class-balanced linear SVMs with squared hinge loss for all strengths, each started from the one before.

    Minimises (|v|^2 + b^2) / 2 + sum_i c_i max(0, 1 - y_i (x_i . v + b))^2 with c_i = n / (2 n_class strength): the
    problem of scikit-learn's LinearSVC with balanced classes and C = 1 / strength. The loss is quadratic while the
    samples inside the margin stay the same, so that a Newton step is a ridge regression on these samples, and the
    optimum is exact once they no longer change [Keerthi2005].

    Args:
        x: features.
        artifact: which samples are positive; both kinds must be there.
        strengths: positive, strongest first.

    Returns:
        Coefficients (S,K) and intercepts (S,).
    """
    z = np.concatenate([np.asarray(x, np.float64), np.ones((len(x), 1))], 1)
    gram = z @ z.T if len(z) <= z.shape[1] else None
    y = np.where(artifact, 1.0, -1.0)
    balanced = len(y) / (2 * np.where(artifact, artifact.sum(), (~artifact).sum()))
    w, found = np.zeros(z.shape[1]), []
    for strength in strengths:
        w = _newton(z, gram, y, balanced / strength, w)
        found.append(w)
    solutions = np.stack(found)
    return solutions[:, :-1], solutions[:, -1]


def _newton(z: np.ndarray, gram: np.ndarray | None, y: np.ndarray, c: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The minimum of |w|^2 / 2 + sum_i c_i max(0, 1 - y_i z_i . w)^2, from a start `w`.

    `gram` holds the products of all samples with each other where they are fewer than the features.
    """
    slack = 1 - y * (z @ w)
    for _ in range(MOST_STEPS):
        active = np.flatnonzero(slack > 0)
        products = None if gram is None else gram[np.ix_(active, active)]
        step = _ridge(z[active], products, y[active], 2 * c[active]) - w
        move = -y * (z @ step)
        length = _damping(w, step, slack, move, c)
        w, slack = w + length * step, slack + length * move
        if length == 0 or (length == 1 and np.array_equal(np.flatnonzero(slack > 0), active)):
            break
    return w


def _ridge(z: np.ndarray, products: np.ndarray | None, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(I + Z' W Z)^-1 Z' W y, solved in the smaller of both dimensions; `products` is Z Z' where it is known."""
    if len(z) < z.shape[1]:
        products = z @ z.T if products is None else products
        return np.asarray(z.T @ solve_positive(products + np.diag(1 / weights), y))
    root = np.sqrt(weights)
    weighted = z * root[:, None]
    return solve_positive(weighted.T @ weighted + np.eye(z.shape[1]), weighted.T @ (root * y))


def _damping(w: np.ndarray, step: np.ndarray, slack: np.ndarray, move: np.ndarray, c: np.ndarray) -> float:
    """The longest of 1, 1/2, 1/4, ... of a step that lowers the loss enough; 0 at the optimum."""

    def loss(length: float) -> float:
        moved = w + length * step
        return float(moved @ moved / 2 + c @ np.maximum(slack + length * move, 0) ** 2)

    now, slope = loss(0.0), float(w @ step + 2 * (c * np.maximum(slack, 0)) @ move)
    for halving in range(MOST_HALVINGS):
        length = 0.5**halving
        if loss(length) <= now + 1e-4 * length * slope:
            return length
    return 0.0
