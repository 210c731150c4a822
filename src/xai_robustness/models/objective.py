"""What training minimises and how it is scored: losses with class weights for each task, and metrics of an epoch."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from xai_robustness.metrics.bootstrap import once
from xai_robustness.metrics.classification import METRICS, Predictions, Weighted
from xai_robustness.types import Task

SCORES = ("loss", "accuracy", "balanced_accuracy", "auroc")
Loss = Callable[[Tensor, Tensor], Tensor]


def class_weights(labels: Shaped[np.ndarray, " n"], n_classes: int) -> Float[Tensor, " k"]:
    """Weight max(n)/n_c of each class, 1 for the most frequent one and 0 for absent ones.

    Example:
        >>> class_weights(np.array([0, 0, 0, 1]), 3).tolist()
        [1.0, 3.0, 0.0]
    """
    counts = np.bincount(labels, minlength=n_classes).astype(float)
    weights = np.divide(counts.max(), counts, out=np.zeros_like(counts), where=counts > 0)
    return torch.from_numpy(weights).float()


def positive_weights(labels: Shaped[np.ndarray, "n k"]) -> Float[Tensor, " k"]:
    """Weight n_negative/n_positive of the positives of each label; 1 where a label has no positives."""
    positives = labels.sum(axis=0).astype(float)
    weights = np.divide(len(labels) - positives, positives, out=np.ones_like(positives), where=positives > 0)
    return torch.from_numpy(weights).float()


def loss_for(
    task: Task, labels: np.ndarray, n_classes: int, weighted: bool, device: str | torch.device, smoothing: float = 0.0
) -> Loss:
    """The loss of logits (B,K) and labels: cross entropy, or binary cross entropy per label for multi-label tasks.

    Labels of cross entropy are classes (B,), or shares of them (B,K) where images are mixed.

    Args:
        task: the data set's task; ordinal labels are treated as classes.
        labels: training labels, from which the weights are taken.
        n_classes: number of logits K.
        weighted: whether classes (positives of a label) are balanced by weights.
        device: where the loss is computed.
        smoothing: share of each label that is spread over all classes; for one label a sample alone.

    Returns:
        A function to a scalar, the weighted mean over the batch.
    """
    if task == "multi-label":
        positive = positive_weights(labels).to(device) if weighted else None
        return lambda logits, y: F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), pos_weight=positive)
    weights = class_weights(labels, n_classes).to(device) if weighted else None
    return lambda logits, y: F.cross_entropy(logits, y, weight=weights, label_smoothing=smoothing)


def scores(
    logits: Float[np.ndarray, "n k"], labels: Shaped[np.ndarray, "n ..."], task: Task, loss: Loss
) -> dict[str, float]:
    """Loss, accuracy, balanced accuracy and AUROC of one set of logits; NaN where undefined or not finite."""
    found = {"loss": float(loss(torch.from_numpy(logits), torch.from_numpy(labels)))}
    weighted = Weighted(Predictions(logits, labels, task), once(len(labels)))
    finite = weighted.predictions.finite
    return found | {name: float(METRICS[name](weighted)[0]) if finite else float("nan") for name in SCORES[1:]}
