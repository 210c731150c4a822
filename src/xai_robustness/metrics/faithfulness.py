"""Faithfulness of explanations: the masking game, insertion and deletion curves."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xai_robustness.metrics.patches import Ranks, masked
from xai_robustness.types import InputError

Predict = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n k"]]
"""Images to logits."""


class Game(NamedTuple):
    """Answers while more and more patches are masked.

    Attributes:
        counts: (K,) numbers of masked patches, rising.
        correct: (N,K) whether the answer is the true label; its mean is the fidelity F(k).
        consistent: (N,K) whether the answer is that on the unmasked image; its mean is the consistency C(k).
        probability: (N,K) probability of the class that is predicted on the unmasked image.
    """

    counts: np.ndarray
    correct: Bool[np.ndarray, "n k"]
    consistent: Bool[np.ndarray, "n k"]
    probability: Float[np.ndarray, "n k"]


@torch.no_grad()
def play(
    predict: Predict,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    fill: Float[Tensor, "n c h w"],
    ranks: Ranks,
    grid: tuple[int, int],
    counts: Sequence[int],
    top: bool = True,
    unmasked: Float[Tensor, "n k"] | None = None,
) -> Game:
    """The masking game: replace the k most (`top`) or least important patches, for each k [TheoreticalEnsembles].

    For `top`, lower fidelity and consistency are better; otherwise higher ones are.

    Args:
        predict: the model.
        images: (N,C,H,W) in [0,1].
        labels: (N,) true classes.
        fill: (N,C,H,W) what replaces a patch.
        ranks: (N,P) rank of every patch, 0 the most important.
        grid: patches along height and width.
        counts: numbers of masked patches, rising.
        top: mask the most important ones.
        unmasked: logits of the unmasked images where they are known, so that they are not computed again.

    Raises:
        InputError: counts that do not rise or exceed the patches, ranks of another shape.
    """
    _check(images, ranks, grid, counts)
    clean = predict(images) if unmasked is None else unmasked
    answer = clean.argmax(dim=1)
    logits = [clean if k == 0 else predict(masked(images, fill, ranks, k, grid, top)) for k in counts]
    stacked = torch.stack(logits, dim=1)
    answers = stacked.argmax(dim=2)
    shares = stacked.softmax(dim=2).gather(2, answer[:, None, None].expand(-1, len(counts), 1))[..., 0]
    return Game(
        np.asarray(counts),
        (answers == labels[:, None]).cpu().numpy(),
        (answers == answer[:, None]).cpu().numpy(),
        shares.double().cpu().numpy(),
    )


def deletion_insertion(
    predict: Predict,
    images: Float[Tensor, "n c h w"],
    fill: Float[Tensor, "n c h w"],
    ranks: Ranks,
    grid: tuple[int, int],
    steps: int = 10,
) -> tuple[Float[np.ndarray, "n s"], Float[np.ndarray, "n s"]]:
    """Probability of the class predicted on the whole image while patches go (deletion) or come (insertion).

    Patches go and come in the order of importance; both curves begin with none and end with all, in equal steps
    [Petsiuk2018]. Insertion starts from the fill.

    Returns:
        Deletion and insertion, (N, steps + 1) each.
    """
    n = ranks.shape[1]
    counts = sorted({round(n * step / steps) for step in range(steps + 1)})
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    with torch.no_grad():
        whole = predict(images)
    deleted = play(predict, images, labels, fill, ranks, grid, counts, True, whole)
    kept = play(predict, images, labels, fill, ranks, grid, counts, False, whole)
    return deleted.probability, kept.probability[:, ::-1]


def area(values: Float[np.ndarray, "n k"], counts: Sequence[int] | np.ndarray) -> Float[np.ndarray, " n"]:
    """Area under each sample's curve over the number of patches, by trapezoids, in units of the last number.

    Example:
        >>> area(np.array([[1.0, 0.0]]), [0, 4])
        array([0.5])
    """
    places = np.asarray(counts, dtype=float)
    return np.trapezoid(np.asarray(values, dtype=float), places, axis=1) / (places[-1] - places[0])


def robustness(clean: Float[np.ndarray, " k"], noisy: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """|M_clean(k) - M_noisy(k)| of fidelity or consistency; 0 is best. Published tables name it, no code defines it."""
    return np.abs(np.asarray(clean, dtype=float) - np.asarray(noisy, dtype=float))


def patch_jaccard(a: Ranks, b: Ranks, count: int) -> Float[np.ndarray, " n"]:
    """Jaccard index of the `count` most important patches of two rankings; 1 for none."""
    if count == 0:
        return np.ones(len(a))
    common = ((a < count) & (b < count)).sum(dim=1).double().cpu().numpy()
    return common / (2 * count - common)


def _check(images: Tensor, ranks: Tensor, grid: tuple[int, int], counts: Sequence[int]) -> None:
    n = grid[0] * grid[1]
    if ranks.shape != (len(images), n):
        raise InputError(
            f"The ranks parameter of the masking game must be of shape {(len(images), n)}. "
            f"Got {tuple(ranks.shape)} instead."
        )
    if list(counts) != sorted(set(counts)) or not counts or counts[0] < 0 or counts[-1] > n:
        raise InputError(
            f"The counts parameter of the masking game must rise within 0..{n}. Got {list(counts)} instead."
        )
