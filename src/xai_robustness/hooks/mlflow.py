"""MLflow tracking: one experiment a study, one run a `kedro run`, one nested run a corrected model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from xai_robustness.hooks.tracking import log_params, metrics_of, open_experiment
from xai_robustness.io.datasets import Checkpoints, Figure, Page, Report, Table, versioned
from xai_robustness.models.checkpoint import load_description
from xai_robustness.parameters import read_parameters

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient

CHILDREN = "correction_metrics"


class MlflowHooks:
    """Open a run when nodes are to run, log parameters, metrics (of reused results too), tables and figures."""

    def __init__(self) -> None:
        self._context: KedroContext | None = None
        self._client: MlflowClient | None = None
        self._run_id = ""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Keep the context, for its configuration."""
        self._context = context

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Open the parent run; runs of the same study and seed that were killed are closed."""
        assert self._context is not None
        config = self._context.config_loader["mlflow"]
        if not config["enabled"]:
            return
        params = read_parameters(self._context.config_loader["parameters"])
        root = Path(self._context.project_path)
        client, experiment = open_experiment(root, config, params.study, params.seed)
        tags = {
            "study": params.study,
            "seed": str(params.seed),
            "data_licence": params.data_licence(),
            "pipelines": ",".join(run_params.get("pipeline_names") or ["__default__"]),
            "mlflow.source.name": "kedro run",
        }
        name = f"{params.study}-seed{params.seed}-{run_params['run_id']}"
        run = client.create_run(experiment, tags=tags, run_name=name)
        self._client, self._run_id = client, run.info.run_id
        log_params(client, self._run_id, params.flat())

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Log the results of the run and of what it reused, and close it."""
        if self._client:
            names = sorted(set(run_params.get("load_versions") or {}) | set(pipeline.all_outputs()))
            for name in names:
                self._log(name, catalog)
            if "selection" in pipeline.all_outputs():
                self._register(catalog)
            self._close("FINISHED")

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Close the run as failed."""
        if self._client:
            self._close("FAILED")

    def _close(self, status: str) -> None:
        assert self._client is not None
        self._client.set_terminated(self._run_id, status)
        self._client = None

    def _log(self, name: str, catalog: DataCatalog) -> None:
        dataset, client = versioned(catalog, name), self._client
        assert client is not None
        if isinstance(dataset, Table | Report | Figure | Page):
            client.log_artifact(self._run_id, str(dataset.path()))
        if isinstance(dataset, Table):
            table = dataset.load()
            if name == CHILDREN:
                self._log_children(table)
            elif {"metric", "value"} <= set(table.columns):
                client.log_batch(self._run_id, metrics=metrics_of(table))

    def _register(self, catalog: DataCatalog) -> None:
        """Log the selected model as a pyfunc with its signature and register it under the study's name.

        MLflow is given the folder of safetensors and the module that loads it: nothing is pickled. The model lies in a
        nested run of its own, since MLflow copies each metric of the run that logs a model, one query each.
        """
        folders, selection = versioned(catalog, "corrected_classifiers"), versioned(catalog, "selection")
        best = selection.load()["best"] if selection and selection.exists() else None
        if best is None or not isinstance(folders, Checkpoints):
            return
        import mlflow

        client = self._client
        assert client is not None
        folder = folders.path() / best
        parent = client.get_run(self._run_id)
        study = parent.data.tags["study"]
        tags = {"mlflow.parentRunId": self._run_id, "study": study, "candidate": best}
        nested = client.create_run(parent.info.experiment_id, run_name=f"{best}-registered", tags=tags)
        mlflow.set_tracking_uri(client.tracking_uri)
        with mlflow.start_run(run_id=nested.info.run_id):
            mlflow.pyfunc.log_model(
                name="model",
                loader_module="xai_robustness.models.served",
                data_path=str(folder),
                signature=_signature(folder),
                registered_model_name=study,
                pip_requirements=["torch", "torchvision", "safetensors"],
            )

    def _log_children(self, table: pd.DataFrame) -> None:
        client = self._client
        assert client is not None
        parent = client.get_run(self._run_id)
        columns = ["candidate", "method", "layer", "strength", "cav"]
        for _, rows in table.groupby("candidate", sort=False):
            first = rows.iloc[0]
            params: dict[str, Any] = {c: first[c] for c in columns if not pd.isna(first[c]) and first[c] != ""}
            params["seed"] = parent.data.tags["seed"]
            child_tags = {"mlflow.parentRunId": self._run_id, "study": parent.data.tags["study"]}
            child = client.create_run(
                parent.info.experiment_id, run_name=str(params["candidate"]), tags={**child_tags, **params}
            )
            log_params(client, child.info.run_id, params)
            client.log_batch(child.info.run_id, metrics=metrics_of(rows.drop(columns=columns)))
            client.set_terminated(child.info.run_id)


def _signature(folder: Path) -> "ModelSignature":
    """uint8 images (N,H,W,C) to float32 logits (N,K)."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    description = load_description(folder)
    c, h, w = description["image_shape"]
    images = TensorSpec(np.dtype(np.uint8), (-1, h, w, c))
    logits = TensorSpec(np.dtype(np.float32), (-1, description["n_classes"]))
    return ModelSignature(Schema([images]), Schema([logits]))
