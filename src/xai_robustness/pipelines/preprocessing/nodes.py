"""Nodes of preprocessing."""

from xai_robustness.attribution.latents import PreprocessingParams, latents_job
from xai_robustness.chunks import ArraysJob
from xai_robustness.datasets.base import ImageSet
from xai_robustness.models.saved import Classifier

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
