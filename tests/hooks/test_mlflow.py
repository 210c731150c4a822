import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from xai_robustness.hooks.mlflow import _close_killed, _experiment, _metrics


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


def test_runs_that_were_killed_are_closed_and_those_of_other_seeds_are_left_alone(client, tmp_path):
    experiment = _experiment(client, "study", tmp_path)
    assert _experiment(client, "study", tmp_path) == experiment
    mine = client.create_run(experiment, tags={"seed": "0"}).info.run_id
    other = client.create_run(experiment, tags={"seed": "1"}).info.run_id
    done = client.create_run(experiment, tags={"seed": "0"}).info.run_id
    client.set_terminated(done)
    _close_killed(client, experiment, seed=0)
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
    found = {metric.key: metric.value for metric in _metrics(table)}
    assert found["vanilla/test/clean/auroc"] == 0.5
    assert found["vanilla/test/clean/auroc.ci_low"] == 0.4
    assert "vanilla/test/clean/iou" not in found
