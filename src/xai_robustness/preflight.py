"""Checks before any long computation: nothing is written, no run is tracked, one sentence says what is wrong."""

from collections.abc import Collection, Mapping

from torch.nn import Sequential

from xai_robustness.artifacts import ARTIFACTS, SIGNAL_ARTIFACTS, check_plan
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


def check_parameters(params: StudyParams) -> None:
    """Check what the parameters say of each other: layers exist in the model, named files exist.

    Raises:
        InputError: in one sentence.
    """
    for key in ("training", "reveal", "sample_retrieval"):
        files_of(params, key)
    _check_modality(params)
    layers = {
        *params.preprocessing.layers,
        *params.reveal.layers,
        *params.reveal.neurons.layers,
        *params.sample_retrieval.cavs.layers,
        *params.mitigation.all_layers(),
        *([params.training.frozen_to] if params.training.frozen_to else []),
    }
    shape = input_shape(params.data)
    statistics = [0.5] * shape[0]
    model = build(params.model, dataset_info(params.data).n_classes, shape, statistics, statistics, seed=0)
    for layer in sorted(layers):
        check_layer(model, layer)
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
    given = params.training.checkpoint or params.training.start
    checkpoint = given if "train_classifier" in names else None
    if not (ingest or checkpoint):
        return
    check_dataset(params.data, raw_root())
    splits = load_dataset(params.data, params.seed, raw_root(), decode=False)
    train = splits["train"]
    if ingest and params.artifact.is_real:
        _check_real(splits, params.artifact.name or "")
    elif ingest:
        check_plan(train.labels, train.sample_ids, params.artifact, train.info.class_names, params.seed)
    if checkpoint:
        _check_checkpoint(checkpoint, params, train)


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
