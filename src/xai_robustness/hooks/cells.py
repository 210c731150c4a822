"""MLflow runs of a grid: one parent, one nested run a cell, logged as soon as the cell is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from xai_robustness.hooks.tracking import log_params, metrics_of, open_experiment


class CellRuns:
    """Logs a grid into the experiment of its study.

    Args:
        project: root of the project.
        config: `mlflow.yml`: enabled, database, files.
        study: name of the study.
        seed: seed of the run.
        parameters: flattened parameters of the study, for the parent run.
    """

    def __init__(
        self, project: Path, config: Mapping[str, Any], study: str, seed: int, parameters: Mapping[str, Any]
    ) -> None:
        self.client: Any = None
        self.study, self.seed = study, seed
        if not config["enabled"]:
            return
        self.client, self.experiment = open_experiment(project, config, study, seed)
        tags = {"study": study, "seed": str(seed), "mlflow.source.name": "xai_robustness.grid"}
        run = self.client.create_run(self.experiment, tags=tags, run_name=f"{study}-seed{seed}-grid")
        self.parent = run.info.run_id
        log_params(self.client, self.parent, parameters)

    def cell(self, name: str, values: Mapping[str, Any], metrics: pd.DataFrame | None) -> None:
        """Log one cell; without metrics it is marked as failed."""
        if self.client is None:
            return
        tags = {"mlflow.parentRunId": self.parent, "study": self.study, "candidate": name}
        run = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        log_params(self.client, run, {**values, "seed": self.seed})
        if metrics is not None:
            self.client.log_batch(run, metrics=metrics_of(metrics))
        self.client.set_terminated(run, "FAILED" if metrics is None else "FINISHED")

    def close(self, table: Path, status: str = "FINISHED") -> None:
        """Log the table of the grid and close the parent run."""
        if self.client is None:
            return
        if table.exists():
            self.client.log_artifact(self.parent, str(table))
        self.client.set_terminated(self.parent, status)
