"""The part of the one table that needs attacks: robust accuracy, explanations under attack, sharpness."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import nn

from xai_robustness.attacks.budget import make_budget
from xai_robustness.attacks.evaluate import robust_accuracy
from xai_robustness.attacks.explanation import ExplanationAttack
from xai_robustness.attacks.stability import attack_explanations
from xai_robustness.datasets.base import ImageSet
from xai_robustness.robustness.corruption import drawn
from xai_robustness.robustness.params import RobustnessParams
from xai_robustness.robustness.sharpness import sharpness_values
from xai_robustness.robustness.table import TABLE_COLUMNS, sample_rows


def attack_rows(
    models: Mapping[str, nn.Sequential],
    images: ImageSet,
    params: RobustnessParams,
    reference: str,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Rows of the one table for whatever attacks the parameters ask for; without rows if they ask for none.

    Args:
        models: name -> classifier.
        images: clean test images.
        params: `attacks` on predictions, `explanation_eps` for attacks on `explanation_methods`, `sharpness`.
        reference: the model that differences are taken to.
        seed: seed of the run.
        device: where to compute.

    Returns:
        As `table.accuracy_rows`: `test/<attack>/accuracy`; `test/<method>_attack/<agreement>` over the images whose
        prediction the attack keeps in every model; `test/sharpness/<measure>` of saliency.
    """
    parts: list[pd.DataFrame] = []
    predicted = drawn(images, params.n_predicted, "predicted", seed)
    for asked in params.attacks:
        found = {
            name: robust_accuracy(model, predicted, asked.make(), seed, device, params.batch_size).robust.astype(float)
            for name, model in models.items()
        }
        parts.append(sample_rows(found, f"test/{asked.condition}/accuracy", reference, seed))
    explained = drawn(images, params.n_explained, "explained", seed)
    radius = params.explanation_eps
    for method in params.explanation_methods if radius is not None else []:
        attack = ExplanationAttack(make_budget("linf", radius or 0.0), method, steps=params.explanation_steps)
        tables = {n: attack_explanations(m, explained, attack, seed, device).samples for n, m in models.items()}
        for metric in ("spearman", "ssim", "topk_intersection"):
            values = {name: _of_attack(table, metric, explained) for name, table in tables.items()}
            parts.append(sample_rows(values, f"test/{method}_attack/{metric}", reference, seed))
    if params.sharpness:
        sharp = {name: sharpness_values(m, explained, "saliency", device) for name, m in models.items()}
        for measure in sharp[reference]:
            values = {name: found[measure] for name, found in sharp.items()}
            parts.append(sample_rows(values, f"test/sharpness/{measure}", reference, seed))
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(TABLE_COLUMNS))


def _of_attack(samples: pd.DataFrame, metric: str, images: ImageSet) -> np.ndarray:
    rows = samples[samples["source"] == "attack"].set_index("sample_id")[metric]
    return rows.reindex(images.sample_ids).to_numpy(dtype=float)
