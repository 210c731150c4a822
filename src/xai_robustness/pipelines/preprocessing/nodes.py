"""Nodes of preprocessing."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from zarr import Group

from xai_robustness.attribution.attribution_set import (
    AttributionSet,
    attribution_job,
    gallery_columns,
    probe_sizes,
    sizes_of,
)
from xai_robustness.attribution.latents import PreprocessingParams, latents_job
from xai_robustness.attribution.probe import PreflightParams
from xai_robustness.attribution.set_export import ExportJob
from xai_robustness.attribution.set_params import AttributionSetParams, chosen
from xai_robustness.attribution.set_rows import mean_image
from xai_robustness.chunks import ArraysJob
from xai_robustness.datasets.base import ImageSet
from xai_robustness.figures.gallery import gallery
from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.saved import Classifier
from xai_robustness.spread import SpreadJob, devices_for

Sets = dict[str, ImageSet]


def compute_latents(classifier: Classifier, images_fit: Sets, params: PreprocessingParams, device: str) -> ArraysJob:
    """Activations, relevances, heatmaps and logits of the images that everything is fitted on, in one pass."""
    return latents_job(classifier.model, images_fit, params, device, classifier.fingerprint)


def compute_report_latents(
    classifier: Classifier, images_report: Sets, params: PreprocessingParams, device: str
) -> ArraysJob:
    """The same for the biased test images, for reporting alone."""
    biased = {"test/biased": images_report["test/biased"]}
    return latents_job(classifier.model, biased, params, device, classifier.fingerprint)


def probe_batch_sizes(
    classifier: Classifier,
    images_fit: Sets,
    images_report: Sets,
    attribution_sets: AttributionSetParams,
    preflight: PreflightParams,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Batch sizes that fit into memory, one a method of the attribution set."""
    images = chosen({**images_fit, **images_report}, attribution_sets, seed)
    mean = mean_image(images_fit["train/biased"])
    first = devices_for(device)[0]
    return probe_sizes(classifier.model, next(iter(images.values())), mean, attribution_sets, preflight, first)


def compute_attributions(
    classifier: Classifier,
    part_classifiers: Path,
    images_fit: Sets,
    images_report: Sets,
    attribution_sets: AttributionSetParams,
    batch_sizes: dict[str, Any],
    seed: int,
    device: str,
) -> SpreadJob:
    """All methods on the same images under noise."""
    images = chosen({**images_fit, **images_report}, attribution_sets, seed)
    parts = [load_model(part_classifiers / f"part_{i}") for i in range(len(attribution_sets.decorrelated))]
    info = images_fit["train/biased"].info
    attributes = {
        "model": classifier.fingerprint,
        "seed": seed,
        "dataset": info.name,
        "licence": info.licence,
        "class_names": list(info.class_names),
    }
    job = attribution_job(
        classifier.model,
        parts,
        images if attribution_sets.methods or parts else {},
        mean_image(images_fit["train/biased"]),
        attribution_sets,
        sizes_of(batch_sizes),
        seed,
        devices_for(device)[0],
        attributes,
    )
    return SpreadJob(job, attribution_sets.workers, device)


def plot_attributions(attribution_set: Group) -> Figure:
    """The gallery: some samples of the set under each noise condition, explained by every method."""
    return gallery(**gallery_columns(AttributionSet(attribution_set)))


def export_attributions(attribution_set: Group, attribution_sets: AttributionSetParams) -> ExportJob:
    """Files for other code, where the parameters ask for some."""
    kinds = attribution_sets.export
    return ExportJob(attribution_set, AttributionSet(attribution_set).groups if kinds else (), kinds)
