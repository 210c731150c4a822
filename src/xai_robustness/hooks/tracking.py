"""What every kind of MLflow run shares: the experiment of a study, parameters, and tables of metrics."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from xai_robustness.types import METRIC_COLUMNS

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

NAME_COLUMNS = ("model", "candidate", "method", "layer", "kind", "feature")
"""Columns that tell rows of one metric apart; they stand before its name."""


def open_experiment(project: Path, config: Mapping[str, Any], study: str, seed: int) -> "tuple[MlflowClient, str]":
    """A client and the study's experiment; runs of the same study and seed that were killed are closed.

    Args:
        project: root of the project.
        config: `mlflow.yml`: database, files.
        study: name of the study.
        seed: seed of the run that is about to start.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{(project / config['database']).resolve()}")
    experiment = experiment_of(client, study, (project / config["files"] / study).resolve())
    close_killed(client, experiment, seed)
    return client, experiment


def experiment_of(client: "MlflowClient", name: str, files: Path) -> str:
    """The experiment of a study, made if there is none."""
    found = client.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    tags = {"mlflow.experimentKind": "custom_model_development"}  # opens in the view of runs, not of chat traces
    return client.create_experiment(name, artifact_location=files.as_uri(), tags=tags)


def close_killed(client: "MlflowClient", experiment: str, seed: int) -> None:
    """Close the runs of a seed that still count as running."""
    filter_string = f"attributes.status = 'RUNNING' and tags.seed = '{seed}'"
    for run in client.search_runs([experiment], filter_string=filter_string):
        client.set_terminated(run.info.run_id, "KILLED")


def log_params(client: "MlflowClient", run_id: str, values: Mapping[str, Any]) -> None:
    """Log parameters in one batch."""
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in values.items()])


def metrics_of(table: pd.DataFrame) -> "list[Metric]":
    """Rows of a metrics table as MLflow metrics: `name`, and `name.ci_low`, ... where they are known."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    named = [column for column in NAME_COLUMNS if column in table.columns]
    extra = [column for column in table.columns if column not in {*named, "metric"} and column in _NUMBERS]
    rows: list[Any] = table.to_dict("records")
    metrics = []
    for row in rows:
        name = "/".join([*(str(row[c]) for c in named if not pd.isna(row[c]) and row[c] != ""), row["metric"]])
        for column in extra:
            if not pd.isna(row[column]):
                key = name if column == "value" else f"{name}.{column}"
                metrics.append(Metric(key, float(row[column]), now, 0))
    return metrics


_NUMBERS = {*METRIC_COLUMNS[1:], "difference", "difference_low", "difference_high"}
