"""Nodes of mitigation."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from matplotlib.figure import Figure

from xai_robustness.artifacts.insertion import ArtifactParams
from xai_robustness.concepts.cav import Cavs
from xai_robustness.concepts.spectral import RevealParams
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.figures.ecg import ecg_before_after
from xai_robustness.figures.mitigation import before_after, comparison, tradeoff
from xai_robustness.mitigation.again import suspected_before_and_after
from xai_robustness.mitigation.base import REFERENCE, MaskTable
from xai_robustness.mitigation.evaluate import evaluate_candidates
from xai_robustness.mitigation.job import CorrectionJob, Loader, load_corrected
from xai_robustness.mitigation.params import MitigationParams
from xai_robustness.mitigation.relevance import attributions_of, heatmaps_of, relevance_metrics
from xai_robustness.mitigation.report import report_html
from xai_robustness.mitigation.select import select, verdict
from xai_robustness.mitigation.sensitivity import Labelled, tcav_metrics
from xai_robustness.models.saved import Classifier

Sets = dict[str, ImageSet]
SHOWN = 8


def correct_models(
    classifier: Classifier,
    images_fit: Sets,
    cavs: Cavs,
    predicted_masks: zarr.Group,
    artifact_masks: zarr.Group,
    artifact_labels: pd.DataFrame,
    params: MitigationParams,
    seed: int,
    device: str,
) -> CorrectionJob:
    """Make every candidate; masks are the predicted ones unless the labelled control asks for the true ones."""
    masks = predicted_masks if params.masks == "predicted" else artifact_masks
    return CorrectionJob(
        classifier.model,
        classifier.description,
        images_fit["train/biased"],
        images_fit["val/biased"],
        cavs,
        _mask_table(masks),
        params,
        seed,
        device,
        artifact_labels,
    )


def _mask_table(store: zarr.Group) -> MaskTable:
    group: Any = store.get("train/biased")
    if group is None or "masks" not in group:
        return MaskTable(np.zeros(0, np.int64), np.zeros((0, 1, 1), bool))
    return MaskTable(np.asarray(group["sample_ids"][:]), group["masks"])


def evaluate_corrections(
    classifier: Classifier,
    corrected_classifiers: Path,
    images_select: Sets,
    images_report: Sets,
    params: MitigationParams,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Metrics of every candidate on validation and test images, with paired differences to the uncorrected model."""
    sets = {**images_select, **images_report}
    return evaluate_candidates(corrected_classifiers, classifier.model, sets, params, seed, device)


def select_correction(correction_metrics: pd.DataFrame, params: MitigationParams) -> dict[str, Any]:
    """Choose on validation rows alone."""
    return select(correction_metrics, params.allowed_clean_loss).to_json()


def measure_relevance(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    images_report: Sets,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Artifact relevance of the uncorrected model and of the best of each method."""
    models = _shown_models(classifier, corrected_classifiers, selection)
    return relevance_metrics(models, images_report["test/attacked"], "test/attacked", seed, device, REFERENCE)


def measure_tcav(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    images_fit: Sets,
    images_report: Sets,
    artifact_labels: pd.DataFrame,
    params: MitigationParams,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """TCAV of the uncorrected model and of the best of each method on attacked test images."""
    attacked, labelled = images_report["test/attacked"], Labelled.of(images_fit["train/biased"], artifact_labels)
    models = _shown_models(classifier, corrected_classifiers, selection)
    return tcav_metrics(models, REFERENCE, labelled, attacked, "test/attacked", seed, device, params.tcav_cav)


def _shown_models(classifier: Classifier, folder: Path, selection: dict[str, Any]) -> dict[str, Loader]:
    loaders = load_corrected(folder)
    models: dict[str, Loader] = {REFERENCE: lambda: classifier.model}
    return models | {name: loaders[name] for name in selection["best_by_method"].values() if name != REFERENCE}


def reveal_again(
    classifier: Classifier,
    corrected_classifiers: Path,
    selection: dict[str, Any],
    images_fit: Sets,
    artifact_labels: pd.DataFrame,
    params: MitigationParams,
    reveal: RevealParams,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Whether reveal lists the artifact in the uncorrected and in the selected model, if the parameters ask for it."""
    if not params.reveal_again:
        return {}
    labelled = Labelled.of(images_fit["train/biased"], artifact_labels, params.reveal_again)
    models: dict[str, Loader] = {"before": lambda: classifier.model}
    if selection["best"]:
        models["after"] = load_corrected(corrected_classifiers)[selection["best"]]
    return suspected_before_and_after(models, labelled, reveal, seed, device)


def state_verdict(
    correction_metrics: pd.DataFrame,
    relevance_metrics: pd.DataFrame,
    tcav_metrics: pd.DataFrame,
    suspicion: dict[str, Any],
    selection: dict[str, Any],
    classifier: Classifier,
    corrected_classifiers: Path,
    images_report: Sets,
    artifact: ArtifactParams,
    params: MitigationParams,
    seed: int,
) -> dict[str, Any]:
    """Say whether the removal is proven, on which evidence, for which data and models."""
    said = verdict(correction_metrics, relevance_metrics, selection, params, "test", tcav_metrics, suspicion)
    best = selection["best"]
    marks = {key: images_report[key].fingerprint() for key in ("test/clean", "test/attacked")}
    marks |= {"classifier": classifier.fingerprint}
    marks |= {"selected": Classifier(corrected_classifiers / best).fingerprint} if best else {}
    about = {"kind": artifact.kind, "attacked_classes": list(artifact.attacked_classes)}
    return {**said, "artifact": about, "seed": seed, "fingerprints": marks}


def plot_corrections(
    correction_metrics: pd.DataFrame, selection: dict[str, Any], params: MitigationParams
) -> tuple[Figure, Figure]:
    """Draw the best of each method on test images, and every candidate on validation images."""
    best = {"uncorrected": REFERENCE, **selection["best_by_method"]}
    bars = comparison(correction_metrics, best, selection["best"])
    return bars, tradeoff(correction_metrics, selection["best"], params.allowed_clean_loss)


def plot_before_after(
    classifier: Classifier, corrected_classifiers: Path, selection: dict[str, Any], images_report: Sets, device: str
) -> Figure:
    """Draw heatmaps of attacked test images before and after the selected correction, and their difference."""
    attacked = images_report["test/attacked"]
    rows = np.linspace(0, len(attacked) - 1, SHOWN).astype(int)
    shown = attacked.subset(rows)
    if shown.is_signal:
        return _ecg(classifier, corrected_classifiers, selection, shown.subset(np.arange(2)), device)
    before = heatmaps_of(classifier.model, shown, device)
    after = before
    if selection["best"]:
        after = heatmaps_of(load_corrected(corrected_classifiers)[selection["best"]](), shown, device)
    return before_after(take(shown.images, slice(None)), before, after)


def write_page(
    study: str,
    verdict: dict[str, Any],
    selection: dict[str, Any],
    correction_metrics: pd.DataFrame,
    relevance_metrics: pd.DataFrame,
    tcav_metrics: pd.DataFrame,
    correction_figure: bytes,
    tradeoff_figure: bytes,
    before_after_figure: bytes,
    contact_sheet: bytes,
    embedding_figure: bytes,
    localization_figure: bytes,
) -> str:
    """Put the verdict, its tables and its figures on one page."""
    figures = {
        "Best correction of each method on test images, clean and with the artifact": correction_figure,
        "Every candidate on validation images; the ringed one was selected": tradeoff_figure,
        "Relevance of attacked test images before and after the selected correction": before_after_figure,
        "The images: every class, clean and with the artifact": contact_sheet,
        "How the artifact was found: embedding of relevances, with the suspects": embedding_figure,
        "Where the artifact was found: image, true mask, heatmap, predicted mask": localization_figure,
    }
    tables = [correction_metrics, relevance_metrics, tcav_metrics]
    return report_html(study, verdict, selection, tables, figures)


def _ecg(
    classifier: Classifier, corrected_classifiers: Path, selection: dict[str, Any], shown: ImageSet, device: str
) -> Figure:
    """Heat along the leads of a few signals before and after the selected correction."""
    models = [classifier.model]
    models += [load_corrected(corrected_classifiers)[selection["best"]]()] if selection["best"] else models
    before, after = (attributions_of(model, shown, device)[:, :, 0].swapaxes(1, 2) for model in models)
    masks = None if shown.masks is None else np.asarray(shown.masks, bool)[:, 0]
    return ecg_before_after(np.asarray(shown.images)[:, 0], before, after, masks)
