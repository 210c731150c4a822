"""The chain on the smoke study: once whole, then only what changed."""

import sqlite3

import pandas as pd

from xai_robustness.concepts.neuron_heatmaps import NeuronHeatmaps
from xai_robustness.pipeline_registry import register_pipelines
from xai_robustness.review.__main__ import load


def nodes_of(*stages: str) -> set[str]:
    return {node.name.split(".")[-1] for node in register_pipelines()["__default__"].nodes if node.namespace in stages}


def mlflow_runs(project) -> pd.DataFrame:
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        return pd.read_sql("select run_uuid, name, status from runs", database)


def test_the_first_run_makes_everything(finished):
    assert len(finished.ran) == len(register_pipelines()["__default__"].nodes)
    catalog = finished.session.finished_catalog()
    verdict = catalog.load("verdict")
    assert verdict["sentence"]
    metrics = catalog.load("correction_metrics")
    assert {"test/clean/balanced_accuracy", "test/attacked/balanced_accuracy"} <= set(metrics.metric)
    shares = metrics[~metrics.metric.str.contains("gap")]  # a gap, and what is won back of it, may be negative
    assert len(shares) > 50 and shares.value.dropna().between(0, 1).all()


def test_the_second_run_makes_nothing_and_opens_no_tracking_run(finished):
    before = len(mlflow_runs(finished))
    files = finished.files()
    _, ran = finished.run()
    assert ran == []
    assert len(mlflow_runs(finished)) == before
    assert finished.files() == files


def test_one_parent_run_with_a_child_for_each_candidate(finished):
    candidates = set(finished.session.finished_catalog().load("correction_metrics").candidate)
    names = set(mlflow_runs(finished).name)
    assert candidates <= names
    with sqlite3.connect(finished.folder / "mlflow.db") as database:
        keys = set(pd.read_sql("select distinct key from metrics", database).key)
        params = set(pd.read_sql("select distinct key from params", database).key)
        parents = pd.read_sql("select value from tags where key = 'mlflow.parentRunId'", database).value
    assert {"test/clean/auroc", "test/attacked/balanced_accuracy"} <= keys
    assert {"artifact.rate", "training.epochs", "method", "layer", "seed"} <= params
    assert len(parents) >= len(candidates)


def test_another_strength_runs_mitigation_and_what_follows_and_the_first_one_runs_nothing(finished):
    _, ran = finished.run(mitigation__rr_clarc__lr=3e-4)
    assert set(ran) <= nodes_of("mitigation", "robustness_eval")
    assert "correct_models" in ran
    _, ran = finished.run()
    assert ran == []


def test_a_batch_size_of_inference_changes_nothing(finished):
    _, ran = finished.run(preprocessing__batch_size=7)
    assert ran == []


def test_a_node_by_name_runs_alone(finished):
    _, ran = finished.run(selection={"node_names": ["training.plot_training"]})
    assert ran == ["plot_training"]


def test_a_stage_brings_its_ancestors(fresh):
    _, ran = fresh.run("data_ingest")
    assert set(ran) == nodes_of("data_ingest")
    _, ran = fresh.run("data_ingest")
    assert ran == []


def test_what_the_review_page_saves_is_used_by_the_next_run(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    monkeypatch.delenv("XAI_DATA_ROOT", raising=False)
    page = load("smoke", 0)
    last = page.neurons.iloc[-1]  # of the last rank: it has heatmaps once it is ticked
    layer, neuron = str(last["layer"]), int(last["neuron"])
    own = page.references[(page.references["layer"] == layer) & (page.references["neuron"] == neuron)]
    sample = int(own["sample_id"].iloc[0])
    assert page.concept_pictures(layer, neuron) == {}
    page.save_neurons([f"{layer}/{neuron}"], [f"{layer}/{neuron}"])
    page.save_answers([sample], [sample])
    session, _ = finished.run(
        selection={"node_names": ["reveal.rank_neurons", "reveal.explain_neurons", "sample_retrieval.review_suspects"]},
        reveal__neurons__spurious=str(page.marked),
        sample_retrieval__review__reviewer="csv",
        sample_retrieval__review__csv=str(page.labels),
    )
    catalog = session.finished_catalog()
    reviewed = catalog.load("reviewed_labels")
    assert reviewed.loc[reviewed["artifact"], "sample_id"].tolist() == [sample]
    assert catalog.load("spurious_neurons")["neuron"].tolist() == [neuron]
    assert sample in NeuronHeatmaps(catalog.load("neuron_heatmaps")).of(layer, neuron)
