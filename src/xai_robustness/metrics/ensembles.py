"""Several rankings of patches joined into one: voting rules and normalised means."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xai_robustness.metrics.patches import Ranks, ranks_of
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

Stack = Int64[Tensor, "n e p"]
"""Ranks of P patches by E voters, 0 the most important."""

Rule = Callable[[Stack], Ranks]
RULES: Registry[Rule] = Registry("voting rule")
EXACT_UP_TO = 8
"""Patches up to which Kemeny's ranking is found exactly; beyond, by local search from Borda's."""

FUSION = 60
"""The constant of reciprocal rank fusion."""


@RULES.register("borda")
def borda(stack: Stack) -> Ranks:
    """Order by the sum of ranks [Borda1781]."""
    return ranks_of(-_checked(stack).sum(dim=1).double())


@RULES.register("reciprocal_rank_fusion")
def reciprocal_rank_fusion(stack: Stack) -> Ranks:
    """Order by the sum of 1 / (60 + rank) [Cormack2009]."""
    return ranks_of((1 / (FUSION + _checked(stack).double())).sum(dim=1))


@RULES.register("schulze")
def schulze(stack: Stack) -> Ranks:
    """Order by the number of others that are beaten on the widest path of pairwise victories [Schulze2011].

    The widest paths come from one transitive closure for each possible strength, by Boolean matrix products.
    """
    wins = preferences(stack)
    voters = stack.shape[1]
    victories = torch.where(wins > wins.transpose(1, 2), wins, 0)
    width = torch.zeros_like(wins)
    for strength in range(voters // 2, voters + 1):
        reached = _closure(victories >= max(1, strength))
        width = torch.where(reached, torch.full_like(width, strength), width)
    width = torch.where(torch.eye(wins.shape[1], dtype=torch.bool, device=wins.device), 0, width)
    return ranks_of((width > width.transpose(1, 2)).sum(dim=2).double())


@RULES.register("kemeny")
def kemeny(stack: Stack) -> Ranks:
    """The ranking with the fewest disagreements with the voters over pairs of patches [Kemeny1959].

    Exact up to 8 patches, by dynamic programming over sets. Beyond, Borda's order is improved by moving one patch at a
    time to its best place until no move helps: never worse than Borda, and optimal only against single moves.
    """
    wins = preferences(stack).double().cpu().numpy()
    start = borda(stack).cpu().numpy()
    find = _exact if stack.shape[2] <= EXACT_UP_TO else _local
    orders = [find(matrix, np.argsort(ranks)) for matrix, ranks in zip(wins, start)]
    ranks = np.argsort(np.array(orders).reshape(len(stack), stack.shape[2]), axis=1)
    return torch.from_numpy(ranks).to(stack.device)


def preferences(stack: Stack) -> Int64[Tensor, "n p p"]:
    """How many voters put patch i before patch j, (N,P,P)."""
    _checked(stack)
    total = torch.zeros((len(stack), stack.shape[2], stack.shape[2]), dtype=torch.int64, device=stack.device)
    for voter in stack.unbind(dim=1):
        total += voter[:, :, None] < voter[:, None, :]
    return total


def disagreements(order: np.ndarray, wins: np.ndarray) -> float:
    """Votes against an order of patches: voters that put a later one before an earlier one."""
    ordered = wins[np.ix_(order, order)]
    return float(np.tril(ordered, -1).sum())


Scaling = Literal["zscore", "robust", "scaling"]
Joining = Literal["mean", "max", "min"]


def normalised(
    scores: Float[Tensor, "n e p"], scaling: Scaling = "zscore", joining: Joining = "mean"
) -> Float[Tensor, "n p"]:
    """Scores (N,E,P) of each explainer put on one scale, then joined by mean, largest or smallest value.

    Args:
        scores: not ranks: values, larger for more important patches.
        scaling: (x - mean) / sd; (x - median) / interquartile range; x / sd. A constant map becomes 0.
        joining: over the explainers.
    """
    x = scores.double()
    if scaling == "robust":
        low, middle, high = torch.quantile(x, x.new_tensor([0.25, 0.5, 0.75]), dim=2, keepdim=True)
        centre, spread = middle, high - low
    elif scaling in ("zscore", "scaling"):
        spread = x.std(dim=2, keepdim=True)
        centre = x.mean(dim=2, keepdim=True) if scaling == "zscore" else torch.zeros_like(spread)
    else:
        raise InputError(f"The scaling parameter of normalised must be zscore, robust or scaling. Got {scaling!r}.")
    scaled = torch.where(spread > 0, (x - centre) / torch.where(spread > 0, spread, 1), 0)
    return {"mean": lambda: scaled.mean(1), "max": lambda: scaled.amax(1), "min": lambda: scaled.amin(1)}[joining]()


def static_members(quality: Float[np.ndarray, "e k"], n: int, top: bool) -> list[int]:
    """The n explainers that are best on average over the numbers of masked patches, measured on validation data.

    Args:
        quality: fidelity of every explainer at every k, on validation images.
        n: members.
        top: fidelity under masking of the most important patches: lower is better.
    """
    _check_members(quality, n)
    mean = quality.mean(axis=1)
    return np.argsort(mean if top else -mean, kind="stable")[:n].tolist()


def dynamic_members(quality: Float[np.ndarray, "e k"], n: int, top: bool) -> list[list[int]]:
    """For each k the n explainers that are best there, measured on validation data."""
    _check_members(quality, n)
    return [static_members(quality[:, [k]], n, top) for k in range(quality.shape[1])]


def pair_accuracy(
    scores: Float[np.ndarray, "n e p"], reference: Float[np.ndarray, "n p"]
) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """How often an explainer orders two patches as the reference does, and how that changes with their distance.

    The reference is the loss of probability when one patch alone is ablated. Voting rules assume voters that are right
    more often than not (Condorcet), and Mallows-like noise, under which distant pairs are ordered right more often.

    Returns:
        Share of right pairs in [0,1], ties of either counting half; and the slope: the share for the more distant half
        of the pairs (by rank in the reference) minus the share for the nearer half.
    """
    whole, far, near = [], [], []
    for sample, truth in zip(scores, reference):
        order = np.argsort(np.argsort(-truth, kind="stable"))
        i, j = np.triu_indices(len(truth), 1)
        right = 0.5 + 0.5 * np.sign(sample[:, i] - sample[:, j]) * np.sign(truth[i] - truth[j])
        distance = np.abs(order[i] - order[j])
        distant = distance > np.median(distance)
        whole.append(right.mean(axis=1))
        far.append(right[:, distant].mean(axis=1))
        near.append(right[:, ~distant].mean(axis=1))
    return np.mean(whole, axis=0), np.mean(far, axis=0) - np.mean(near, axis=0)


def theory_members(
    accuracy: Float[np.ndarray, " e"], slope: Float[np.ndarray, " e"], mallows: bool = True
) -> list[int]:
    """Explainers that meet what the voting rule assumes: mostly right, and for Mallows more so on far pairs.

    Naive ensembles take everyone; this takes those with accuracy above 1/2 and, for rules of the Mallows model, a
    positive slope. Where nobody qualifies, the most accurate explainer stands alone.
    """
    good = np.flatnonzero((accuracy > 0.5) & ((slope > 0) | (not mallows)))
    return good.tolist() if len(good) else [int(np.argmax(accuracy))]


def _exact(wins: np.ndarray, _start: np.ndarray) -> list[int]:
    n = len(wins)
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for chosen in range(1, 1 << n):
        members = [i for i in range(n) if chosen >> i & 1]
        options = []
        for last in members:
            cost, order = best[chosen & ~(1 << last)]
            options.append((cost + wins[last, order].sum(), [*order, last]))
        best[chosen] = min(options)
    return best[(1 << n) - 1][1]


def _local(wins: np.ndarray, start: np.ndarray) -> list[int]:
    order, margin = start.tolist(), wins - wins.T
    moved = True
    while moved:
        moved = False
        for patch in list(order):
            place = order.index(patch)
            rest = order[:place] + order[place + 1 :]
            # Going behind a patch costs the votes for it minus the votes for that patch.
            costs = np.concatenate([[0.0], np.cumsum(margin[patch, rest])])
            best = int(np.argmin(costs))
            if costs[best] < costs[place] - 1e-9:
                rest.insert(best, patch)
                order, moved = rest, True
    return order


def _closure(edges: Tensor) -> Tensor:
    reached = edges
    steps = max(1, int(np.ceil(np.log2(max(2, edges.shape[1])))))
    for _ in range(steps):
        further = reached | (torch.bmm(reached.float(), reached.float()) > 0)
        if torch.equal(further, reached):
            break
        reached = further
    return reached


def _checked(stack: Stack) -> Stack:
    if stack.ndim != 3 or stack.shape[1] == 0:
        raise InputError(
            f"The ranks of an ensemble must be of shape (N,E,P) with at least one explainer. Got {tuple(stack.shape)}."
        )
    return stack


def _check_members(quality: np.ndarray, n: int) -> None:
    if not 1 <= n <= len(quality):
        raise InputError(f"The n parameter of the selection must be from 1 to {len(quality)}. Got {n} instead.")
