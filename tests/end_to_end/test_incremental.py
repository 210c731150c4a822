"""The chain on the smoke study: once whole, then only what changed."""

import sqlite3

import pandas as pd

from xai_robustness.pipeline_registry import register_pipelines


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
