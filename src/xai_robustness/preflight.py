"""Checks before any long computation: nothing is written, no run is tracked, one sentence says what is wrong."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from torch.nn import Sequential

from xai_robustness.artifacts import ARTIFACTS, SIGNAL_ARTIFACTS, check_plan
from xai_robustness.concepts.answers import read_review
from xai_robustness.datasets.load import (
    SIGNALS,
    RawSplit,
    check_dataset,
    dataset_info,
    input_shape,
    load_dataset,
    raw_root,
)
from xai_robustness.models.checkpoint import load_weights
from xai_robustness.models.own import is_own
from xai_robustness.models.pretrained import weights_file
from xai_robustness.models.xresnet import ECG_MODELS
from xai_robustness.models.zoo import build, check_layer
from xai_robustness.parameters import StudyParams, files_of
from xai_robustness.types import InputError, Split

log = logging.getLogger(__name__)


def check_parameters(params: StudyParams) -> None:
    """Check what the parameters say of each other: layers exist in the model, named files exist.

    Raises:
        InputError: in one sentence.
    """
    for key in ("training", "reveal", "sample_retrieval"):
        files_of(params, key)
    _check_modality(params)
    layers = {
        "preprocessing.layers": params.preprocessing.layers,
        "reveal.layers": params.reveal.layers,
        "reveal.neurons.layers": params.reveal.neurons.layers,
        "sample_retrieval.cavs.layers": params.sample_retrieval.cavs.layers,
        "mitigation, in layers of its methods": params.mitigation.all_layers(),
        "training.frozen_to": [params.training.frozen_to] if params.training.frozen_to else [],
    }
    shape = input_shape(params.data)
    statistics = [0.5] * shape[0]
    model = build(params.model, dataset_info(params.data).n_classes, shape, statistics, statistics, seed=0)
    for key, layer in ((key, layer) for key, named in layers.items() for layer in named):
        try:
            check_layer(model, layer)
        except InputError as error:
            raise InputError(f"{error} It is named by {key}.") from None
    check_attribution_sets(params, model, shape)


def check_attribution_sets(params: StudyParams, model: Sequential, shape: tuple[int, int, int]) -> None:
    """Check that the methods take their options, and that each decorrelated one has its model.

    Raises:
        InputError: in one sentence.
    """
    params.attribution_sets.check(model, shape)
    evaluation = params.robustness_eval
    ensembles = evaluation.methods if evaluation.faithfulness.enabled and evaluation.faithfulness.decorrelated else []
    asked = {
        "attribution_sets.decorrelated": len(params.attribution_sets.decorrelated),
        "robustness_eval, for faithfulness.decorrelated": len(ensembles),
    }
    for name, wanted in asked.items():
        if wanted > params.parts.n:
            raise InputError(
                f"The parts.n parameter must be at least {wanted}, one model for each method of {name}. "
                f"Got {params.parts.n} instead."
            )


def _check_modality(params: StudyParams) -> None:
    """Signals take artifacts of signals, no flips and no corruptions of images; images the other way round."""
    signal = params.data.name in SIGNALS
    kinds = SIGNAL_ARTIFACTS if signal else ARTIFACTS
    if not params.artifact.is_real and params.artifact.kind not in kinds:
        raise InputError(
            f"The kind parameter of ArtifactParams must fit {params.data.name}: {', '.join(kinds.names())}. "
            f"Got '{params.artifact.kind}' instead."
        )
    if signal and (params.training.augment or params.robustness_eval.corruptions):
        raise InputError(
            f"Flips and image corruptions must be off for the signals of {params.data.name}: set training.augment: "
            f"false and robustness_eval.corruptions: []."
        )
    if not is_own(params.model.name) and signal != (params.model.name in ECG_MODELS):
        raise InputError(
            f"The name parameter of ModelParams must be a model for {'signals' if signal else 'images'}. Got "
            f"'{params.model.name}' instead; models for signals are {', '.join(ECG_MODELS)}."
        )


def check_data(params: StudyParams, stale: Collection[str]) -> None:
    """Check the raw files, the artifact's reach into the training split and a given checkpoint, where they are used.

    Args:
        params: parameters of the run.
        stale: names of the nodes to run.

    Raises:
        InputError: in one sentence.
    """
    names = {name.rpartition(".")[2] for name in stale}
    ingest = bool(names & {"load_images", "insert_artifacts"})
    _check_review(params, names)
    given = params.training.checkpoint or params.training.start
    checkpoint = given if "train_classifier" in names else None
    if not (ingest or checkpoint):
        return
    check_dataset(params.data, raw_root())
    splits = load_dataset(params.data, params.seed, raw_root(), decode=False)
    train = splits["train"]
    if ingest:
        _check_classes(splits, params, names)
    if ingest and params.artifact.is_real:
        _check_real(splits, params.artifact.name or "")
    elif ingest:
        check_plan(train.labels, train.sample_ids, params.artifact, train.info.class_names, params.seed)
    if checkpoint:
        _check_checkpoint(checkpoint, params, train)


def _check_review(params: StudyParams, names: Collection[str]) -> None:
    """A person's tables can be read; a warning where later numbers are of an artifact that is nowhere in the images."""
    if "review_suspects" in names:
        for path in params.sample_retrieval.review.csv:
            read_review(Path(path))
    judged = not {"score_localization", "evaluate_corrections"}.isdisjoint(names)
    if params.sample_retrieval.review.csv and not params.artifact.is_real and params.artifact.rate == 0 and judged:
        log.warning(
            "artifact.rate is 0 and a person labels what is in the images: attacked images, true masks, localization "
            "scores and the verdict are of a '%s' that is drawn into them, not of what was labelled. For numbers on "
            "that, name its images in data.artifact_labels and set artifact: {kind: real, name: ...}.",
            params.artifact.kind,
        )


def _check_classes(splits: Mapping[Split, RawSplit], params: StudyParams, names: Collection[str]) -> None:
    """A class that is learned here has training samples where others have some; a warning if too few for reveal."""
    train, least = splits["train"], 2 * params.reveal.min_size
    several, class_names = train.labels.ndim == 2, train.info.class_names
    counts = {
        split: part.labels.sum(0) if several else np.bincount(part.labels, minlength=len(class_names))
        for split, part in splits.items()
    }
    missing = np.flatnonzero((counts["train"] == 0) & (sum(counts.values()) > 0))
    if len(missing) and not several and "train_classifier" in names and not params.training.checkpoint:
        raise InputError(
            f"The train split must hold samples of every class that there is. Got none of '{class_names[missing[0]]}' "
            f"among {len(train.labels)}: leave the class out (data.classes), take more samples (data.n_train), or "
            f"split anew (data.split_seed)."
        )
    sizes = dict(zip(class_names, counts["train"].tolist()))
    few = [f"{name} ({count})" for name, count in sizes.items() if count < least]
    if few and "reveal_suspects" in names:
        log.warning(
            "Reveal passes over classes with fewer than %d training samples, twice reveal.min_size: %s%s.",
            *(least, ", ".join(few[:5]), f" and {len(few) - 5} more" if len(few) > 5 else ""),
        )


def _check_real(splits: Mapping[Split, RawSplit], name: str) -> None:
    """Every split must have samples with the artifact and without."""
    for split, part in splits.items():
        labels = part.extras.get(f"artifact:{name}")
        if labels is None:
            known = [key.removeprefix("artifact:") for key in part.extras if key.startswith("artifact:")]
            choices = ", ".join(known) or "none: set data.artifact_labels"
            raise InputError(f"Unknown artifact '{name}' in artifact.name. The data set has labels of: {choices}.")
        if not 0 < labels.sum() < len(labels):
            raise InputError(
                f"The {split} split must hold samples with '{name}' and without. Got {int(labels.sum())} with it "
                f"of {len(labels)} instead: change data.val_share, data.test_share or data.split_seed."
            )


def _check_checkpoint(checkpoint: str, params: StudyParams, train: RawSplit) -> None:
    _, height, width, channels = train.images.shape
    statistics = [0.5] * channels
    shape, new_head = (channels, height, width), params.training.checkpoint is None
    path = weights_file(checkpoint, params.model.name)
    load_weights(path, build(params.model, train.info.n_classes, shape, statistics, statistics, seed=0), new_head)
