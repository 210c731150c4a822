"""Nodes of robustness_eval."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from xai_robustness.chunks import ArraysJob
from xai_robustness.corruptions import corrupt
from xai_robustness.datasets.base import ImageSet
from xai_robustness.figures.corruptions import severity_sheet
from xai_robustness.figures.layerwise import layerwise_figures
from xai_robustness.figures.robustness import curves
from xai_robustness.figures.robustness_table import table_figure
from xai_robustness.figures.style import blank
from xai_robustness.mitigation.job import load_corrected
from xai_robustness.models.cam_layers import cam_layer
from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.saved import Classifier
from xai_robustness.models.training import TrainingParams, predict_logits
from xai_robustness.models.zoo import ModelParams
from xai_robustness.robustness.attacked import attack_rows
from xai_robustness.robustness.comparisons import ComparisonJob, ComparisonParams, load_compared
from xai_robustness.robustness.corrupted_sets import ExportJob, corrupted_job, export_job
from xai_robustness.robustness.corruption import (
    agreement_metrics,
    corruption_logits,
    corruption_metrics,
    drawn,
    make_explainer,
)
from xai_robustness.robustness.faithfulness import COLUMNS, faithfulness_metrics
from xai_robustness.robustness.layerwise import LAYERWISE_COLUMNS, eight_layers, layerwise_metrics, layerwise_samples
from xai_robustness.robustness.page import robustness_html
from xai_robustness.robustness.params import SEVERITIES, RobustnessParams
from xai_robustness.robustness.table import accuracy_rows, sample_rows

Sets = dict[str, ImageSet]
REFERENCE = "vanilla"


def train_comparisons(
    images_fit: Sets,
    classifier: Classifier,
    comparisons: ComparisonParams,
    model: ModelParams,
    training: TrainingParams,
    seed: int,
    device: str,
) -> ComparisonJob:
    """Train the models that the one table sets beside the others, on the same biased images; none by default."""
    train, val = images_fit["train/biased"], images_fit["val/biased"]
    start = classifier.folder / "model.safetensors"
    return ComparisonJob(comparisons, model, training, train, val, start, seed, device)


def _models(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    compared_classifiers: Path,
    rows: str = "best",
) -> dict[str, nn.Sequential]:
    models: dict[str, nn.Sequential] = {REFERENCE: classifier.model}
    loaders = load_corrected(corrected_classifiers)
    if selection["best"]:
        models["corrected"] = loaders[selection["best"]]()
    if rows == "each":
        others = [name for name in selection["best_by_method"].values() if name != selection["best"]]
        models |= {name: loaders[name]() for name in others}
    return models | load_compared(compared_classifiers)


def evaluate_corruptions(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    compared_classifiers: Path,
    images_report: Sets,
    params: RobustnessParams,
    seed: int,
    device: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict the corrupted clean test images, and the attacked ones, before and after correction."""
    models = _models(classifier, corrected_classifiers, selection, compared_classifiers, params.rows)
    clean = images_report["test/clean"]
    logits = corruption_logits(models, clean, params, seed, device)
    labels, task = drawn(clean, params.n_predicted, "predicted", seed).labels, clean.info.task
    with_artifact = drawn(images_report["test/attacked"], params.n_predicted, "predicted", seed)
    attacked = {name: predict_logits(model, with_artifact, params.batch_size, device) for name, model in models.items()}
    return (
        corruption_metrics(logits, labels, task, REFERENCE),
        accuracy_rows(logits, attacked, labels, task, REFERENCE, params.table, seed),
    )


def measure_agreement(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    compared_classifiers: Path,
    images_report: Sets,
    params: RobustnessParams,
    seed: int,
    device: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare explanations of clean and corrupted images before and after correction."""
    models = _models(classifier, corrected_classifiers, selection, compared_classifiers, params.rows)
    layer = cam_layer(classifier.model)
    return agreement_metrics(models, images_report["test/clean"], params, seed, device, layer)


def measure_attacks(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    compared_classifiers: Path,
    images_report: Sets,
    params: RobustnessParams,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Robust accuracy, explanations under attack and sharpness; empty unless the parameters ask for them."""
    models = _models(classifier, corrected_classifiers, selection, compared_classifiers, params.rows)
    return attack_rows(models, images_report["test/clean"], params, REFERENCE, seed, device)


def tabulate_robustness(
    accuracy_table: pd.DataFrame, attack_table: pd.DataFrame, agreement_samples: pd.DataFrame, seed: int
) -> tuple[pd.DataFrame, Figure]:
    """The one table: clean, attacked and corrupted accuracy, and agreement of explanations, model by model."""
    parts = [accuracy_table, attack_table]
    metrics = [c for c in agreement_samples.columns if c not in ("model", "sample_id")]
    for metric in metrics if len(agreement_samples) else []:
        wide = agreement_samples.pivot(index="sample_id", columns="model", values=metric)
        values = {model: wide[model].to_numpy() for model in dict.fromkeys(agreement_samples["model"])}
        parts.append(sample_rows(values, f"test/corrupted/{metric}", REFERENCE, seed))
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return table, table_figure(table)


def write_robustness_page(
    study: str,
    robustness_table: pd.DataFrame,
    robustness_figure: bytes,
    corruption_figure: bytes,
    agreement_figure: bytes,
    corruption_sheet: bytes,
) -> str:
    """Put the one table and its figures on one page."""
    figures = {
        "The same table as a figure; filled where the paired difference to the uncorrected model has p < 0.05": (
            robustness_figure
        ),
        "Balanced accuracy by corruption and severity": corruption_figure,
        "Agreement of explanations of clean and corrupted images by severity": agreement_figure,
        "The corruptions at their severities": corruption_sheet,
    }
    return robustness_html(study, robustness_table, figures)


def plot_robustness(corruption_metrics: pd.DataFrame, agreement_metrics: pd.DataFrame) -> tuple[Figure, Figure]:
    """Draw both against severity."""
    if agreement_metrics.empty:
        return blank("No corruption was asked for."), blank("No corruption was asked for.")
    metric = "ssim" if agreement_metrics["metric"].str.endswith("/ssim").any() else _first(agreement_metrics)
    return curves(corruption_metrics, "balanced_accuracy"), curves(agreement_metrics, metric)


def _first(table: pd.DataFrame) -> str:
    return str(table["metric"].iloc[0]).rpartition("/")[2]


def plot_corruptions(images_report: Sets, params: RobustnessParams, seed: int) -> Figure:
    """Draw every chosen corruption at every severity on the first clean test image."""
    if not params.chosen:
        return blank("No corruption was asked for.")
    clean = images_report["test/clean"].subset(np.arange(1))
    image, ids = clean.tensor(slice(None)), clean.sample_ids.tolist()
    made = {
        name: torch.cat([image, *(corrupt(name, image, ids, s, seed, params.table) for s in SEVERITIES)])
        for name in params.chosen
    }
    return severity_sheet(made)


def study_layers(
    classifier: Classifier, images_report: Sets, params: RobustnessParams, seed: int, device: str
) -> tuple[pd.DataFrame, Figure, Figure, Figure, Figure, Figure]:
    """Follow the maps of eight layers under perturbation; empty unless the parameters ask for it."""
    asked = params.layerwise
    if not asked.enabled:
        off = "The layer-wise study is off: robustness_eval.layerwise.enabled."
        return pd.DataFrame(columns=LAYERWISE_COLUMNS), blank(off), blank(off), blank(off), blank(off), blank(off)
    images = drawn(images_report["test/clean"], asked.n, "layerwise", seed)
    layers = asked.layers or list(eight_layers(classifier.model))
    samples = layerwise_samples(classifier.model, images, layers, seed, device)
    table = layerwise_metrics(samples, images.info.task, seed)
    figures = layerwise_figures(table)
    return (
        table,
        figures["rmse"],
        figures["scatter_by_severity"],
        figures["scatter_by_corruption"],
        figures["box_by_layer"],
        figures["box_by_loss"],
    )


def measure_faithfulness(
    classifier: Classifier,
    part_classifiers: Path,
    images_fit: Sets,
    images_select: Sets,
    images_report: Sets,
    params: RobustnessParams,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Play the masking game with explainers and ensembles; empty unless the parameters ask for it."""
    asked = params.faithfulness
    if not asked.enabled:
        return pd.DataFrame(columns=COLUMNS)
    layer = cam_layer(classifier.model)
    model = classifier.model.to(device).eval()
    explainers = {name: make_explainer(name, model, params, layer) for name in params.methods}
    val, test = (
        drawn(part, asked.n, "faithfulness", seed) for part in (images_select["val/clean"], images_report["test/clean"])
    )
    own = {}
    for i, name in enumerate(params.methods if asked.decorrelated else []):
        part = load_model(part_classifiers / f"part_{i}").to(device).eval()
        own[name] = make_explainer(name, part, params, layer)
    train = images_fit["train/biased"]
    return faithfulness_metrics(model, explainers, train, val, test, asked, seed, device, params.batch_size, own)


def write_corrupted_images(
    images_control: Sets, images_select: Sets, images_report: Sets, params: RobustnessParams, seed: int
) -> tuple[ArraysJob, ExportJob]:
    """Write corrupted splits and the MedMNIST-C export; both empty unless the parameters ask for them."""
    sets = {**images_control, **images_select, **images_report}
    clean = {f"{split}/clean": sets[f"{split}/clean"] for split in ("train", "val", "test")}
    return corrupted_job(clean, params, seed), export_job(clean["test/clean"], params, seed)
