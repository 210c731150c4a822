"""The masking game for explainers and their ensembles; members are chosen on validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xai_robustness.attribution.base import Attributor
from xai_robustness.attribution.many import attribute_many
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.bootstrap import mean_interval
from xai_robustness.metrics.ensembles import (
    RULES,
    dynamic_members,
    normalised,
    pair_accuracy,
    static_members,
    theory_members,
)
from xai_robustness.metrics.faithfulness import Game, area, deletion_insertion, play
from xai_robustness.metrics.patches import Ranks, counts_of, fills, grid_of, masked, patch_scores, ranks_of
from xai_robustness.models.modes import borrow
from xai_robustness.progress import progress
from xai_robustness.robustness.params import FaithfulnessParams
from xai_robustness.types import METRIC_COLUMNS

REFERENCE_IMAGES = 16
"""Validation images whose patches are ablated one by one, to judge the explainers."""

DECORRELATED = ", own models"
"""Ends the names of explainers and ensembles whose members explain a model each [EnsembleStrategies]."""

COLUMNS = ["explainer", "patch", "fill", "top", *METRIC_COLUMNS]


@dataclass(frozen=True)
class Played:
    """Images of one split with what the game needs of them.

    Attributes:
        images: (N,C,H,W).
        labels: (N,).
        logits: (N,K) unmasked.
        attributions: explainer -> (N,D,H,W).
    """

    images: Float[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    logits: Float[Tensor, "n k"]
    attributions: Mapping[str, Tensor]


def prepare_game(
    model: nn.Module, explainers: Mapping[str, Attributor], images: ImageSet, batch_size: int, device: str
) -> Played:
    """Explain every image once by every explainer, for the class that `model` predicts.

    Explainers of other models explain what those say of that class.
    """
    x, labels = images.tensor(slice(None)).to(device), torch.from_numpy(images.labels).to(device)
    if all(explainer.model is model for explainer in explainers.values()):
        found = attribute_many(explainers, x, None, batch_size)
        return Played(x, labels, found.logits, found.attributions)
    with borrow(model):
        logits = _predict(model, batch_size, x)
    answers = logits.argmax(1)
    return Played(x, labels, logits, {name: explainer(x, answers) for name, explainer in explainers.items()})


def mean_images(images: ImageSet, batch_size: int = 256) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "k c h w"]]:
    """Mean training image, and that of each class (NaN for a class without any), in float64, from one pass."""
    n = images.info.n_classes
    total = torch.zeros((n, *images.image_shape), dtype=torch.float64)
    counts = torch.zeros(n, dtype=torch.float64)
    for batch in images.batches(batch_size):
        total.index_add_(0, batch.labels, batch.images.double())
        counts += torch.bincount(batch.labels, minlength=n)
    return total.sum(0) / counts.sum(), total / counts[:, None, None, None]


def faithfulness_metrics(
    model: nn.Module,
    explainers: Mapping[str, Attributor],
    train: ImageSet,
    val: ImageSet,
    test: ImageSet,
    params: FaithfulnessParams,
    seed: int,
    device: str,
    batch_size: int = 128,
    decorrelated: Mapping[str, Attributor] | None = None,
) -> pd.DataFrame:
    """Fidelity and consistency of explainers and of their ensembles, on test images.

    Ensembles: every voting rule and the normalised mean over all explainers (naive), over those that meet the rules'
    assumption on validation images (theory), over the best on average there (static), and over the best there for each
    number of masked patches (dynamic).

    Args:
        model: classifier of one label a sample.
        explainers: name -> attributor of this model.
        train: images whose means fill patches.
        val: images that choose members.
        test: images that are reported.
        params: patches, fills, rules, members.
        seed: seed of the bootstrap.
        device: where to compute.
        batch_size: images at once.
        decorrelated: the same names, each an attributor of a model of its own; played as well, on the same images and
            against the same classifier, under names that end with DECORRELATED.

    Returns:
        Columns explainer, patch, fill, top (the most important patches are masked) and METRIC_COLUMNS:
        `test/clean/fidelity_<k>` and `consistency_<k>` for each k, `fidelity_area`, `consistency_area`; for the top
        also `deletion_area`, `insertion_area`.
    """
    explained = {"": explainers} | ({DECORRELATED: decorrelated} if decorrelated else {})
    families = {
        mark: {k: prepare_game(model, own, part, batch_size, device) for k, part in (("val", val), ("test", test))}
        for mark, own in explained.items()
    }
    means, predict, size = mean_images(train), partial(_predict, model, batch_size), test.image_shape[1:]
    rows: list[tuple[object, ...]] = []
    settings = [(patch, fill) for patch in params.patches for fill in params.fills]
    with borrow(model), progress(len(settings), "masking game") as bar:
        for patch, kind in settings:
            grid, counts = grid_of(patch, (size[0], size[1])), sorted(set(counts_of(patch, (size[0], size[1]))))
            fill = {key: fills(kind, s.images, s.logits.argmax(1), *means) for key, s in families[""].items()}
            alone = _alone(predict, families[""]["val"], fill["val"], grid)
            for mark, sets in families.items():
                found = _play_setting(predict, sets, fill, alone, grid, counts, params, seed)
                rows += [(f"{name}{mark}", patch, kind, *rest) for name, *rest in found]
            bar.update(1)
    return pd.DataFrame(rows, columns=COLUMNS)


def _play_setting(
    predict: partial,
    sets: Mapping[str, Played],
    fill: Mapping[str, Tensor],
    alone: Float[np.ndarray, "n p"],
    grid: tuple[int, int],
    counts: list[int],
    params: FaithfulnessParams,
    seed: int,
) -> list[tuple[object, ...]]:
    """Rows (name, top, metric, value, ...) of one family of explainers for one patch size and fill."""
    explainers = list(sets["test"].attributions)
    scores = {key: _scores(part, grid) for key, part in sets.items()}
    good = pair_accuracy(scores["val"][: len(alone)].cpu().numpy(), alone)
    rows: list[tuple[object, ...]] = []
    for top in (True, False):
        game = {
            key: partial(
                play,
                predict,
                part.images,
                part.labels,
                fill[key],
                grid=grid,
                counts=counts,
                top=top,
                unmasked=part.logits,
            )
            for key, part in sets.items()
        }
        quality = np.stack([game["val"](ranks=ranks_of(s)).correct.mean(0) for s in scores["val"].unbind(1)])
        members = _members(explainers, quality, good, params.members, top)
        for name, (rule, chosen) in _entries(explainers, members, params.rules).items():
            rows += _rows((name, top), _play_members(game["test"], scores["test"], chosen, rule, counts), seed)
    for index, name in enumerate(explainers):
        ranks = ranks_of(scores["test"][:, index])
        curves = deletion_insertion(predict, sets["test"].images, fill["test"], ranks, grid)
        for curve, metric in zip(curves, ("deletion", "insertion")):
            values = area(curve, np.arange(curve.shape[1]))
            rows.append((name, True, f"test/clean/{metric}_area", *mean_interval(values, seed=seed), len(values)))
    return rows


def _predict(model: nn.Module, batch_size: int, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(batch_size)])


def _scores(part: Played, grid: tuple[int, int]) -> Float[Tensor, "n e p"]:
    return torch.stack([patch_scores(a, grid) for a in part.attributions.values()], dim=1)


def _alone(predict: partial, part: Played, fill: Tensor, grid: tuple[int, int]) -> Float[np.ndarray, "n p"]:
    """What masking one patch alone takes from the predicted class, for each patch of some validation images."""
    n, patches = min(REFERENCE_IMAGES, len(part.images)), grid[0] * grid[1]
    x, target = part.images[:n], part.logits[:n].argmax(1)
    whole = part.logits[:n].softmax(1).gather(1, target[:, None])[:, 0]
    losses = []
    for patch in range(patches):
        only = torch.ones((n, patches), dtype=torch.int64, device=x.device)
        only[:, patch] = 0
        answer = predict(masked(x, fill[:n], only, 1, grid, True)).softmax(1).gather(1, target[:, None])[:, 0]
        losses.append(whole - answer)
    return torch.stack(losses, dim=1).double().cpu().numpy()


def _members(
    names: Sequence[str], quality: np.ndarray, good: tuple[np.ndarray, np.ndarray], n: int, top: bool
) -> dict[str, list[list[int]]]:
    """Kind of ensemble -> members at every number of masked patches."""
    n, counts = min(n, len(names)), quality.shape[1]
    return {
        "naive": [list(range(len(names)))] * counts,
        "theory": [theory_members(*good)] * counts,
        "static": [static_members(quality, n, top)] * counts,
        "dynamic": dynamic_members(quality, n, top),
    }


def _entries(
    names: Sequence[str], members: Mapping[str, list[list[int]]], rules: Sequence[str]
) -> dict[str, tuple[str, list[list[int]]]]:
    """Explainers alone, then each rule with each kind of members: name -> (rule, members at every k)."""
    counts = len(members["naive"])
    entries = {name: ("borda", [[index]] * counts) for index, name in enumerate(names)}
    for rule in [*rules, "normalised_mean"]:
        entries |= {f"{rule}-{kind}": (rule, chosen) for kind, chosen in members.items()}
    return entries


def _play_members(game: partial, scores: Tensor, members: list[list[int]], rule: str, counts: list[int]) -> Game:
    """One game for every distinct set of members; each k is read from the game of its own members."""
    results: dict[tuple[int, ...], Game] = {}
    for chosen in {tuple(sorted(m)) for m in members}:
        results[chosen] = game(ranks=_joined(scores[:, list(chosen)], rule))
    picked = [results[tuple(sorted(m))] for m in members]
    columns = [[getattr(result, name)[:, i] for i, result in enumerate(picked)] for name in Game._fields[1:]]
    return Game(np.asarray(counts), *(np.stack(column, axis=1) for column in columns))


def _joined(scores: Tensor, rule: str) -> Ranks:
    if scores.shape[1] == 1:
        return ranks_of(scores[:, 0])
    if rule == "normalised_mean":
        return ranks_of(normalised(scores))
    return RULES[rule](torch.stack([ranks_of(s) for s in scores.unbind(1)], dim=1))


def _rows(subject: tuple[str, bool], game: Game, seed: int) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, values in (("fidelity", game.correct), ("consistency", game.consistent)):
        for i, k in enumerate(game.counts):
            interval = mean_interval(values[:, i].astype(float), seed=seed)
            rows.append((*subject, f"test/clean/{name}_{k}", *interval, len(values)))
        areas = area(values, game.counts)
        rows.append((*subject, f"test/clean/{name}_area", *mean_interval(areas, seed=seed), len(areas)))
    return rows
