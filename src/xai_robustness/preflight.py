"""Checks before any long computation: nothing is written, no run is tracked, one sentence says what is wrong."""

from collections.abc import Collection

from torch.nn import Sequential

from xai_robustness.artifacts.insertion import check_plan
from xai_robustness.datasets.load import RawSplit, check_dataset, dataset_info, load_dataset, raw_root
from xai_robustness.models.checkpoint import load_weights
from xai_robustness.models.zoo import build, check_layer
from xai_robustness.parameters import StudyParams, files_of
from xai_robustness.types import InputError


def check_parameters(params: StudyParams) -> None:
    """Check what the parameters say of each other: layers exist in the model, named files exist.

    Raises:
        InputError: in one sentence.
    """
    for key in ("training", "sample_retrieval"):
        files_of(params, key)
    layers = {
        *params.preprocessing.layers,
        *params.reveal.layers,
        *params.sample_retrieval.cavs.layers,
        *params.mitigation.all_layers(),
        *([params.training.frozen_to] if params.training.frozen_to else []),
    }
    shape = (3, params.data.size, params.data.size)
    model = build(params.model, dataset_info(params.data).n_classes, shape, [0.5] * 3, [0.5] * 3, seed=0)
    for layer in sorted(layers):
        check_layer(model, layer)
    check_attribution_sets(params, model, shape)


def check_attribution_sets(params: StudyParams, model: Sequential, shape: tuple[int, int, int]) -> None:
    """Check that the methods take their options, and that each decorrelated one has its model.

    Raises:
        InputError: in one sentence.
    """
    params.attribution_sets.check(model, shape)
    wanted = len(params.attribution_sets.decorrelated)
    if wanted > params.parts.n:
        raise InputError(
            f"The parts.n parameter must be at least {wanted}, one model for each method of "
            f"attribution_sets.decorrelated. Got {params.parts.n} instead."
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
    train = load_dataset(params.data, params.seed, raw_root())["train"]
    if ingest:
        check_plan(train.labels, train.sample_ids, params.artifact, train.info.class_names, params.seed)
    if checkpoint:
        _check_checkpoint(checkpoint, params, train)


def _check_checkpoint(checkpoint: str, params: StudyParams, train: RawSplit) -> None:
    _, height, width, channels = train.images.shape
    statistics = [0.5] * channels
    shape = (channels, height, width)
    load_weights(checkpoint, build(params.model, train.info.n_classes, shape, statistics, statistics, seed=0))
