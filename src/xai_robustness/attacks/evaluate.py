"""Robust accuracy: what a model still gets right when its images are attacked."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import nn

from xai_robustness.attacks.base import Attack
from xai_robustness.attacks.criteria import agrees
from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.bootstrap import mean_interval
from xai_robustness.models.modes import borrow
from xai_robustness.progress import progress
from xai_robustness.types import METRIC_COLUMNS


@dataclass(frozen=True)
class Robustness:
    """Each sample before and after an attack.

    Attributes:
        correct: (N,) predicted correctly without an attack.
        robust: (N,) predicted correctly without and with it.
        logits: (N,K) float32 of the clean images.
        attacked_logits: (N,K) float32 of the attacked images.
        distance: (N,) how far the attack went, in its norm.
    """

    correct: Bool[np.ndarray, " n"]
    robust: Bool[np.ndarray, " n"]
    logits: Float[np.ndarray, "n k"]
    attacked_logits: Float[np.ndarray, "n k"]
    distance: Float[np.ndarray, " n"]

    @property
    def accuracy(self) -> float:
        """Robust accuracy."""
        return float(self.robust.mean())


def robust_accuracy(
    model: nn.Module, images: ImageSet, attack: Attack, seed: int = 0, device: str = "cpu", batch_size: int = 128
) -> Robustness:
    """Attack every image that the model gets right; images that it gets wrong count as not robust.

    Args:
        model: classifier; moves to `device`, is used in evaluation mode and keeps its mode.
        images: with true labels; random draws follow the sample ids, so the batch size cannot change them.
        attack: untargeted, on predictions.
        seed: seed of the run.
        device: where to compute.
        batch_size: images at once.
    """
    placed = model.to(device)
    parts = []
    with progress(len(images), f"attack by {attack.name}") as bar:
        for batch in images.batches(batch_size):
            x, y = batch.images.to(device), batch.labels.to(device)
            clean = attack_free_logits(placed, x)
            correct = agrees(clean, y)
            attacked, distance = clean.clone(), torch.zeros(len(x), dtype=torch.float64, device=x.device)
            if bool(correct.any()):
                ids = images.sample_ids[batch.rows][correct.cpu().numpy()].tolist()
                found = attack(placed, x[correct], y[correct], seed, ids)
                attacked[correct], distance[correct] = found.logits, found.distance
            robust = correct & agrees(attacked, y)
            parts.append([part.cpu().numpy() for part in (correct, robust, clean, attacked, distance)])
            bar.update(len(x))
    return Robustness(*(np.concatenate(part) for part in zip(*parts)))


def attack_free_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits (B,K) float32 in evaluation mode, without a graph."""
    with borrow(model), torch.no_grad():
        logits: torch.Tensor = model(images).float()
    return logits


def robustness_table(found: Mapping[str, Robustness], split: str = "test", seed: int = 0) -> pd.DataFrame:
    """Metrics of attacks on one model, with 95 % bootstrap intervals.

    Args:
        found: condition ("pgd_linf_0.03137") -> result.
        split: the first part of the metrics' names.
        seed: seed of the bootstrap.

    Returns:
        METRIC_COLUMNS: `{split}/clean/accuracy`, and of each condition `{split}/{condition}/accuracy` and
        `.../success_rate`, the share of correctly predicted samples that the attack turns.
    """
    rows: list[tuple[object, ...]] = []
    for condition, result in found.items():
        n = len(result.correct)
        if not rows:
            rows.append((f"{split}/clean/accuracy", *mean_interval(result.correct.astype(float), seed=seed), n))
        rows.append((f"{split}/{condition}/accuracy", *mean_interval(result.robust.astype(float), seed=seed), n))
        turned = (~result.robust[result.correct]).astype(float)
        rows.append((f"{split}/{condition}/success_rate", *mean_interval(turned, seed=seed), len(turned)))
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS))
