"""Deep feature reweighting: the last layer alone is fitted again, on samples that are balanced over the groups."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from sklearn.linear_model import LogisticRegression
from torch import nn

from xai_robustness.mitigation.base import METHODS, Candidate, Corrected, Material, Method, label_of
from xai_robustness.mitigation.directions import absent_labels, activations
from xai_robustness.mitigation.params import DfrParams
from xai_robustness.models.zoo import layer_names
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError


def group_ids(labels: Int64[np.ndarray, " n"], artifact: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Group of each sample, its class with or without the artifact, numbered from 0 without gaps."""
    return np.unique(2 * labels + artifact, return_inverse=True)[1]


def last_linear(model: nn.Sequential) -> tuple[str, str]:
    """Paths of the stage before the last linear layer, whose output are the features, and of that layer."""
    names = layer_names(model)
    linear = [name for name in names if isinstance(model.get_submodule(name), nn.Linear)]
    at = names.index(linear[-1]) if linear else 0
    if at == 0:
        raise InputError("The model parameter of dfr must end in a linear layer that follows other stages. Got none.")
    return names[at - 1], names[at]


def balanced_rows(groups: Int64[np.ndarray, " n"], rng: np.random.Generator) -> Int64[np.ndarray, " m"]:
    """As many rows of every group as the smallest has, drawn without replacement."""
    members = [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
    size = min(map(len, members))
    return np.concatenate([np.sort(rng.permutation(rows)[:size]) for rows in members])


def fit_head(
    features: Float[np.ndarray, "n k"],
    labels: Int64[np.ndarray, " n"],
    artifact: Bool[np.ndarray, " n"],
    strength: float,
    repeats: int,
    seed: int,
    n_classes: int,
) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, " c"]]:
    """Weights and biases of a linear head: the mean of logistic regressions on balanced subsets [Kirichenko2023].

    Args:
        features: what enters the head; standardised inside, which the weights returned undo.
        labels: class of each sample; every class must occur.
        artifact: whether it carries the artifact.
        strength: weight of the squared norm of the (standardised) weights.
        repeats: number of balanced subsets.
        seed: run seed; subsets come from the stream "dfr".
        n_classes: number of logits.
    """
    mean, std = features.mean(0), features.std(0)
    scaled = (features - mean) / np.where(std > 0, std, 1.0)
    groups = group_ids(labels, artifact)
    weights, biases = np.zeros((n_classes, features.shape[1])), np.zeros(n_classes)
    for repeat in range(repeats):
        rows = balanced_rows(groups, numpy_rng(seed, "mitigation", "dfr", repeat))
        fitted = LogisticRegression(C=1 / strength, class_weight="balanced", max_iter=1000, tol=1e-6)
        fitted.fit(scaled[rows], labels[rows])
        coefficients, intercepts = fitted.coef_, fitted.intercept_
        if len(fitted.classes_) == 2:
            coefficients, intercepts = (np.stack([-v[0], v[0]]) / 2 for v in (coefficients, intercepts))
        weights[fitted.classes_] += coefficients / repeats
        biases[fitted.classes_] += intercepts / repeats
    weights = weights / np.where(std > 0, std, 1.0)
    return weights, biases - weights @ mean


@METHODS.register("dfr")
class Dfr(Method):
    """Last-layer retraining on groups of class and artifact label that are balanced [Kirichenko2023].

    With an L2 penalty where the paper has L1. A class in which the artifact never occurs has one group.
    """

    name = "dfr"
    params: DfrParams

    def candidates(self, layers: Sequence[str]) -> list[Candidate]:
        """Every strength."""
        strengths = self.params.lambdas if self.params.enabled else ()
        return [Candidate(label_of(self.name, None, s), self.name, None, s) for s in strengths]

    def at(self, candidate: Candidate, model: nn.Sequential) -> Candidate:
        """The candidate with the layer whose output are the features."""
        return replace(candidate, layer=last_linear(model)[0])

    def absence(self, candidate: Candidate, material: Material) -> str | None:
        """A candidate needs labelled training images, two of every group and some of every class."""
        why = absent_labels(material)
        if why is None and material.train.labels.ndim == 1 and len(np.unique(material.train.labels)) < 2:
            return "There is only one class among the training images."
        return why

    def cached_layers(self, candidates: Sequence[Candidate]) -> set[str]:
        """The layer whose output are the features."""
        return {candidate.layer for candidate in candidates if candidate.layer}

    def correct(self, candidates: Sequence[Candidate], material: Material) -> Iterator[Corrected]:
        """Fit the head for every strength on the same features."""
        layer, name = last_linear(material.model)
        rows = np.arange(len(material.train))
        features = torch.cat(list(activations(layer, material, rows))).flatten(1).double().numpy()
        for candidate in candidates:
            weights, biases = self._head(features, candidate.strength or 0.0, material)
            model = copy.deepcopy(material.model).cpu().eval()
            head = model.get_submodule(name)
            assert isinstance(head, nn.Linear)
            with torch.no_grad():
                head.weight.copy_(torch.from_numpy(weights))
                head.bias.copy_(torch.from_numpy(biases))
            yield Corrected(candidate, model)

    def _head(self, features: np.ndarray, strength: float, material: Material) -> tuple[np.ndarray, np.ndarray]:
        labels, artifact, repeats = material.train.labels, material.artifact, self.params.repeats
        assert artifact is not None
        if labels.ndim == 1:
            n = material.train.info.n_classes
            return fit_head(features, labels, artifact, strength, repeats, material.seed, n)
        heads = [fit_head(features, y, artifact, strength, repeats, material.seed, 2) for y in labels.T]
        return np.stack([w[1] - w[0] for w, _ in heads]), np.array([b[1] - b[0] for _, b in heads])
