from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from kedro.pipeline import Pipeline, node

from xai_robustness.parameters import StudyParams
from xai_robustness.pipeline_registry import STAGES, register_pipelines

CONF = Path(__file__).parents[2] / "conf" / "base"
FITTED = {
    "classifier",
    "latents",
    "suspects",
    "suspect_members",
    "reviewed_labels",
    "artifact_labels",
    "proposed_samples",
    "cavs",
    "artifact_heatmaps",
    "predicted_masks",
    "corrected_classifiers",
    "compared_classifiers",
}
UNSEEN = {"images_select", "images_report", "images_control", "report_latents"}


def reads(pipeline: Pipeline, dataset: str) -> set[str]:
    """Inputs of every node that `dataset` is made by, directly or not."""
    return {i for n in pipeline.to_outputs(dataset).nodes for i in n.inputs}


@pytest.fixture(scope="module")
def whole() -> Pipeline:
    return register_pipelines()["__default__"]


@pytest.fixture(scope="module")
def catalog() -> dict:
    return {k: v for path in CONF.glob("catalog_*.yml") for k, v in yaml.safe_load(path.read_text()).items()}


def node_called(pipeline: Pipeline, name: str):
    return next(n for n in pipeline.nodes if n.name.endswith(name))


def test_nothing_is_fitted_on_clean_attacked_or_test_images(whole):
    for name in FITTED:
        assert not reads(whole, name) & UNSEEN, name


def test_the_leak_check_can_fail():
    leaky = Pipeline([node(lambda images, latents: None, ["images_report", "latents"], "cavs")])
    assert reads(leaky, "cavs") & UNSEEN


def test_the_chain_is_real(whole):
    chain = ["suspects", "reviewed_labels", "artifact_labels", "cavs", "predicted_masks"]
    assert set(chain) <= reads(whole, "corrected_classifiers")


def test_the_truth_reaches_fitted_things_only_through_the_reviewer_and_the_labelled_control(whole):
    readers = {n.name.rpartition(".")[2] for n in whole.nodes if "artifact_truth" in n.inputs}
    assert readers == {"score_suspects", "plot_embedding", "review_suspects", "refine_labels", "measure_effort"}
    assert not any("label_effort" in n.inputs or "label_curves" in n.inputs for n in whole.nodes)
    readers = {n.name.rpartition(".")[2] for n in whole.nodes if "artifact_masks" in n.inputs}
    assert readers == {"correct_models"}


def test_selection_never_sees_test_images(whole):
    selection = node_called(whole, "select_correction")
    assert not set(selection.inputs) & {"images_report"}


def test_every_data_set_is_in_the_catalog_and_versioned(whole, catalog):
    names = {d for d in whole.datasets() if not d.startswith("params:")}
    assert names == set(catalog)
    assert all(entry["versioned"] for entry in catalog.values())


def test_paths_are_unique_and_carry_study_and_seed(catalog):
    paths = [entry["filepath"] for entry in catalog.values()]
    assert len(set(paths)) == len(paths)
    assert all("${runtime_params:study,${globals:study}}" in path and "seed_" in path for path in paths)


def test_eight_layers_in_order_without_a_cycle(whole, catalog):
    layer = {name: entry["metadata"]["kedro-viz"]["layer"] for name, entry in catalog.items()}
    members = defaultdict(set)
    for name, stage in layer.items():
        members[stage].add(name)
    assert tuple(sorted(members, key=STAGES.index)) == STAGES
    for n in whole.nodes:
        for source in n.inputs:
            if source.startswith("params:"):
                continue
            for target in n.outputs:
                assert STAGES.index(layer[source]) <= STAGES.index(layer[target])


def test_a_stage_is_a_namespace(whole):
    assert {n.namespace for n in whole.nodes} == set(STAGES)


def test_every_parameter_input_is_a_field_of_the_study(whole):
    inputs = {i.removeprefix("params:") for i in whole.inputs() if i.startswith("params:")}
    assert inputs <= set(StudyParams.model_fields)
    assert whole.inputs() == {f"params:{i}" for i in inputs}


def test_parameter_models_are_checked_by_kedro_before_any_node_runs(whole):
    from kedro.validation.type_extractor import TypeExtractor

    found = TypeExtractor({"all": whole}).extract_types_from_pipelines()
    models = {k: f.annotation for k, f in StudyParams.model_fields.items() if isinstance(f.annotation, type)}
    expected = {k: v for k, v in models.items() if k not in {"study", "seed", "device"}}
    assert found == expected
