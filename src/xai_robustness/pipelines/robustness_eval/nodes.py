"""Nodes of robustness_eval."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from xai_robustness.datasets.base import ImageSet
from xai_robustness.figures.robustness import curves
from xai_robustness.figures.style import blank
from xai_robustness.mitigation.job import load_corrected
from xai_robustness.models.saved import Classifier
from xai_robustness.models.zoo import inspected_layers
from xai_robustness.robustness.corruption import RobustnessParams, agreement_metrics, corruption_metrics

Sets = dict[str, ImageSet]


def _models(classifier: Classifier, corrected_classifiers: Path, selection: dict[str, Any]) -> dict[str, nn.Module]:
    models: dict[str, nn.Module] = {"vanilla": classifier.model}
    if selection["best"]:
        models["corrected"] = load_corrected(corrected_classifiers)[selection["best"]]()
    return models


def evaluate_corruptions(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    images_report: Sets,
    params: RobustnessParams,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Predict the corrupted clean test images before and after correction."""
    models = _models(classifier, corrected_classifiers, selection)
    return corruption_metrics(models, images_report["test/clean"], params, seed, device, "vanilla")


def measure_agreement(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    images_report: Sets,
    params: RobustnessParams,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Compare explanations of clean and corrupted images before and after correction."""
    models = _models(classifier, corrected_classifiers, selection)
    layer = inspected_layers(classifier.model)[-1]
    return agreement_metrics(models, images_report["test/clean"], params, seed, device, layer)


def plot_robustness(corruption_metrics: pd.DataFrame, agreement_metrics: pd.DataFrame) -> tuple[Figure, Figure]:
    """Draw both against severity."""
    if agreement_metrics.empty:
        return blank("No corruption was asked for."), blank("No corruption was asked for.")
    return curves(corruption_metrics, "balanced_accuracy"), curves(agreement_metrics, "ssim")
