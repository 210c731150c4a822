"""Explanations under attack, beside random noise of the same size: what an attack adds to what noise does anyway."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.attacks.criteria import Reached
from xai_robustness.attacks.evaluate import attack_free_logits
from xai_robustness.attacks.explanation import ExplanationAttack, ExplanationSearch, Objective
from xai_robustness.attacks.maps import post_process
from xai_robustness.attacks.noise import RandomNoise
from xai_robustness.attacks.streams import Streams
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.agreement import agreement
from xai_robustness.metrics.bootstrap import mean_interval
from xai_robustness.models.modes import borrow
from xai_robustness.progress import progress
from xai_robustness.types import METRIC_COLUMNS, InputError

CONTROL_SEEDS = (0, 1, 2)
"""Draws of the noise control, averaged for each sample."""


@dataclass(frozen=True)
class Stability:
    """Explanations of each sample under an attack and its controls.

    Attributes:
        samples: one row a sample and source (attack, noise, search): sample_id, source, kept (whether the prediction
            is that of the clean image), every agreement with the clean heatmap, `inside` (mean relevance of the pixels
            that were the most relevant) and `shift` (way of the centre of mass, in pixels). Where the prediction is
            lost, the values are NaN.
        curves: (N,steps+2) value that the attack makes small: clean, start, and after each step.
    """

    samples: pd.DataFrame
    curves: Float[np.ndarray, "n s"]

    def paired(self, metric: str, control: str = "noise") -> pd.DataFrame:
        """Columns attack and control of the samples where both keep the prediction, one row a sample."""
        wide = self.samples.pivot_table(index="sample_id", columns="source", values=metric, aggfunc="mean")
        return wide[["attack", control]].dropna()


def attack_explanations(
    model: nn.Module,
    images: ImageSet,
    attack: ExplanationAttack,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int = 64,
    control_seeds: Sequence[int] = CONTROL_SEEDS,
    search: bool = False,
) -> Stability:
    """Attack the explanation of every image's predicted class, and compare with random noise at the same ε.

    Args:
        model: classifier; moves to `device`, is used in evaluation mode and keeps its mode.
        images: what is explained; random draws follow the sample ids.
        attack: method, budget and effort.
        seed: seed of the run.
        device: where to compute.
        batch_size: images at once.
        control_seeds: draws of the noise, every pixel by +ε or -ε; at least one.
        search: whether to add the control of equal effort, the best of as many random images as steps.

    Raises:
        InputError: no control.
    """
    if not control_seeds:
        raise InputError("The control_seeds parameter of attack_explanations must name at least one seed. Got none.")
    placed = model.to(device)
    tables, curves = [], []
    with progress(len(images), f"attack {attack.method}") as bar:
        for batch in images.batches(batch_size):
            x, ids = batch.images.to(device), images.sample_ids[batch.rows].tolist()
            judge = _Judge(placed, attack, x, seed, ids)
            found = attack(placed, x, judge.labels, seed, ids)
            assert found.curve is not None
            curves.append(found.curve.cpu().numpy())
            tables.append(judge(found.images, "attack"))
            control = RandomNoise(attack.budget, criterion=Reached())
            tables += [
                judge(control(placed, x, judge.labels, seed + 1000 * s, ids).images, "noise") for s in control_seeds
            ]
            if search:
                tables.append(judge(_search(attack)(placed, x, judge.labels, seed, ids).images, "search"))
            bar.update(len(x))
    return Stability(pd.concat(tables, ignore_index=True), np.concatenate(curves))


def _search(attack: ExplanationAttack) -> ExplanationSearch:
    found = ExplanationSearch(
        attack.budget, attack.method, steps=attack.steps, share=attack.share, target=attack.target
    )
    found.map = attack.map
    return found


class _Judge:
    """Clean explanations of one batch, and the comparison with those of changed images."""

    def __init__(self, model: nn.Module, attack: ExplanationAttack, images: Tensor, seed: int, ids: list[int]) -> None:
        self.model, self.ids = model, ids
        self.labels = attack_free_logits(model, images).argmax(1)
        streams = Streams(seed, f"attack/{attack.name}", ids)  # the attack's own draws, so that its maps are these
        self.map = attack.map.prepare(model, images, streams)
        self.clean = self.explain(images)
        self.objective = Objective(self.clean, attack.share)

    def explain(self, images: Tensor) -> Tensor:
        """Post-processed heatmaps for the clean predictions."""
        with borrow(self.model):
            return post_process(self.map(self.model, images, self.labels, graph=False)).detach()

    def __call__(self, images: Tensor, source: str) -> pd.DataFrame:
        """Rows of `Stability.samples`."""
        kept = (attack_free_logits(self.model, images).argmax(1) == self.labels).cpu().numpy()
        maps = self.explain(images)
        values = agreement(self.clean, maps) | {
            "inside": self.objective(maps),
            "shift": (_centre(maps) - _centre(self.clean)).norm(dim=1),
        }
        columns = {name: np.where(kept, value.double().cpu().numpy(), np.nan) for name, value in values.items()}
        return pd.DataFrame({"sample_id": self.ids, "source": source, "kept": kept, **columns})


def _centre(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n 2"]:
    """Centre of mass (row, column) in pixels; the middle of the image for a map of zeros."""
    maps = maps.double()
    weights = maps / maps.sum((1, 2), keepdim=True)
    weights = torch.where(weights.isfinite(), weights, torch.full_like(weights, 1 / maps[0].numel()))
    rows, columns = (torch.arange(n, dtype=torch.float64, device=maps.device) for n in maps.shape[1:])
    return torch.stack([(weights.sum(2) * rows).sum(1), (weights.sum(1) * columns).sum(1)], 1)


LOWER_IS_STRONGER = ("topk_intersection", "inside")
"""Metrics that are tested against the control: an attack makes them smaller than noise does."""


def stability_table(found: Stability, prefix: str, seed: int = 0) -> pd.DataFrame:
    """Means with 95 % bootstrap intervals of an attack, its controls and their paired differences.

    Args:
        found: what `attack_explanations` gave.
        prefix: first part of the metrics' names, `test/saliency_linf_0.03137`.
        seed: seed of the bootstrap.

    Returns:
        METRIC_COLUMNS and `p_value`: of `{prefix}/{source}/{metric}`, `.../prediction_kept`, and of
        `{prefix}/attack_minus_{control}/{metric}` with the one-sided p-value of Wilcoxon's signed-rank test for the
        metrics of LOWER_IS_STRONGER (attack below control); n counts samples where both keep the prediction.
    """
    names = [c for c in found.samples.columns if c not in ("sample_id", "source", "kept")]
    rows: list[tuple[object, ...]] = []
    for source, part in found.samples.groupby("source", sort=False):
        by_sample = part.groupby("sample_id", sort=False)
        kept = by_sample["kept"].mean().to_numpy(float)
        rows.append((f"{prefix}/{source}/prediction_kept", *mean_interval(kept, seed=seed), len(kept), np.nan))
        for name in names:
            values = by_sample[name].mean().to_numpy(float)
            n = int((~np.isnan(values)).sum())
            rows.append((f"{prefix}/{source}/{name}", *mean_interval(values, seed=seed), n, np.nan))
    for control in [s for s in found.samples["source"].unique() if s != "attack"]:
        for name in names:
            pairs = found.paired(name, control)
            difference = (pairs["attack"] - pairs[control]).to_numpy(float)
            p = wilcoxon_below(difference) if name in LOWER_IS_STRONGER else np.nan
            interval = mean_interval(difference, seed=seed)
            rows.append((f"{prefix}/attack_minus_{control}/{name}", *interval, len(difference), p))
    return pd.DataFrame(rows, columns=[*METRIC_COLUMNS, "p_value"])


def wilcoxon_below(differences: Float[np.ndarray, " n"]) -> float:
    """One-sided p-value that differences lie below zero [Wilcoxon1945]; 1 where all are zero, NaN without any."""
    from scipy.stats import wilcoxon

    if len(differences) == 0:
        return float("nan")
    return float(wilcoxon(differences, alternative="less").pvalue) if np.any(differences) else 1.0
