import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from xai_robustness.hooks.tracking import close_killed, experiment_of, metrics_of


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


def test_runs_that_were_killed_are_closed_and_those_of_other_seeds_are_left_alone(client, tmp_path):
    experiment = experiment_of(client, "study", tmp_path)
    assert experiment_of(client, "study", tmp_path) == experiment
    mine = client.create_run(experiment, tags={"seed": "0"}).info.run_id
    other = client.create_run(experiment, tags={"seed": "1"}).info.run_id
    done = client.create_run(experiment, tags={"seed": "0"}).info.run_id
    client.set_terminated(done)
    close_killed(client, experiment, seed=0)
    assert [client.get_run(run).info.status for run in (mine, other, done)] == ["KILLED", "RUNNING", "FINISHED"]


def test_rows_become_metrics_with_their_bounds_and_undefined_ones_are_left_out():
    table = pd.DataFrame(
        {
            "model": ["vanilla", "vanilla"],
            "metric": ["test/clean/auroc", "test/clean/iou"],
            "value": [0.5, float("nan")],
            "ci_low": [0.4, float("nan")],
            "ci_high": [0.6, float("nan")],
            "n": [10, 0],
        }
    )
    found = {metric.key: metric.value for metric in metrics_of(table)}
    assert found["vanilla/test/clean/auroc"] == 0.5
    assert found["vanilla/test/clean/auroc.ci_low"] == 0.4
    assert "vanilla/test/clean/iou" not in found


def test_rows_that_differ_in_what_they_measure_have_names_of_their_own():
    rows = [
        {"layer": layer, "kind": kind, "feature": feature, "metric": "test/biased/auroc", "value": 0.5}
        for layer in ("layer1", "layer2")
        for kind in ("signal", "svm")
        for feature in ("activations", "relevances")
    ]
    rows += [{"candidate": name, "metric": "test/attacked/relevance", "value": 0.5} for name in ("rrr-1", "vanilla")]
    keys = [metric.key for metric in metrics_of(pd.DataFrame(rows))]
    assert len(set(keys)) == len(rows) and keys[0] == "layer1/signal/activations/test/biased/auroc"
