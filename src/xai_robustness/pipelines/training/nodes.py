"""Nodes of training."""

import pandas as pd
from matplotlib.figure import Figure

from xai_robustness.attacks.training import training_attack
from xai_robustness.datasets.base import ImageSet
from xai_robustness.figures.training import curves
from xai_robustness.metrics.classification import classification_metrics
from xai_robustness.models.parts import PartsJob, PartsParams
from xai_robustness.models.saved import Classifier
from xai_robustness.models.training import TrainingJob, TrainingParams, predict_logits
from xai_robustness.models.zoo import ModelParams

Sets = dict[str, ImageSet]


def train_classifier(
    images_fit: Sets, model: ModelParams, training: TrainingParams, seed: int, device: str
) -> TrainingJob:
    """Train on the biased training images, stop early on the biased validation images."""
    attack = training_attack(training.adversarial)
    return TrainingJob(model, images_fit["train/biased"], images_fit["val/biased"], training, seed, device, attack)


def train_part_classifiers(
    images_fit: Sets, model: ModelParams, training: TrainingParams, parts: PartsParams, seed: int, device: str
) -> PartsJob:
    """Train one model on each of several disjoint parts of the training images, where the parameters ask for them."""
    attack = training_attack(training.adversarial)
    return PartsJob(model, images_fit["train/biased"], images_fit["val/biased"], training, parts, seed, device, attack)


def evaluate_classifier(
    classifier: Classifier, images_fit: Sets, images_select: Sets, images_report: Sets, seed: int, device: str
) -> pd.DataFrame:
    """Metrics with intervals for every split and version."""
    sets = {**images_fit, **images_select, **images_report}
    tables = []
    for key, images in sets.items():
        logits = predict_logits(classifier.model, images, 256, device)
        tables.append(classification_metrics(logits, images.labels, images.info.task, key, seed=seed))
    return pd.concat(tables, ignore_index=True)


def plot_training(classifier: Classifier) -> tuple[pd.DataFrame, Figure]:
    """Draw loss, accuracy and AUROC by epoch."""
    return classifier.history, curves(classifier.history)
