"""The incremental session: checks the input first, then runs what is missing or outdated, and nothing else."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from click import ClickException
from filelock import FileLock, Timeout
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.io import DataCatalog
from kedro.runner import AbstractRunner, ParallelRunner

from xai_robustness.hooks.plan import Plan, Planner, Provenance
from xai_robustness.parameters import StudyParams, components_of, read_parameters
from xai_robustness.pipelines.summary import summarize
from xai_robustness.preflight import check_data, check_parameters
from xai_robustness.types import InputError

log = logging.getLogger(__name__)


class IncrementalSession(KedroSession):
    """A Kedro session in which asking for a pipeline means: make its outputs current.

    The nodes of the pipeline whose outputs are missing or outdated run, and their ancestors where an input is missing.
    `--nodes`, `--from-nodes`, `--to-nodes`, `--from-inputs`, `--to-outputs`, `--tags` and `--namespaces` run exactly
    what they name. Bad input raises one sentence before anything is written.
    """

    planned: Plan
    study: str

    def run(  # type: ignore[override]
        self,
        pipeline_name: str | None = None,
        pipeline_names: list[str] | None = None,
        runner: AbstractRunner | None = None,
        load_versions: dict[str, str] | None = None,
        **selection: Any,
    ) -> dict[str, Any]:
        """Plan and run; the arguments are those of `KedroSession.run`."""
        names = [pipeline_name] if pipeline_name else list(pipeline_names or [])
        if isinstance(runner, ParallelRunner):
            raise ClickException("ParallelRunner runs no hooks, so nothing would be recorded. Use SequentialRunner.")
        self._check_study()
        with one_sentence():
            params = read_parameters(self._get_config_loader()["parameters"])
            os.environ.setdefault("XAI_DATA_ROOT", str(self._project_path / "data" / "01_raw"))
            os.environ["XAI_PROJECT"] = str(self._project_path)
            check_parameters(params)
        exact = any(selection.get(key) for key in selection)
        wanted = self._wanted(names, selection)
        context = self.load_context()
        catalog = cast(DataCatalog, context.catalog)
        planner = Planner(pipelines["__default__"], catalog, components_of(params), load_versions)
        with one_sentence():
            plan = planner.plan({node.name for node in wanted.nodes}, exact)
            self._announce(plan, len(wanted.nodes))
            if plan.stale:
                check_data(params, set(plan.stale))
        if plan.stale:
            with study_lock(self._project_path, params), one_sentence():
                self._hook_manager.register(Provenance(plan))
                pins = {**plan.pins, **(load_versions or {})}
                super().run(node_names=list(plan.stale), runner=runner, load_versions=pins)
        self.planned, self.study = plan, params.study
        outputs = {output for node in wanted.nodes for output in node.outputs}
        summarize(self.finished_catalog(), params.study, params.seed, outputs)
        return {}

    def _check_study(self) -> None:
        folder, env = Path(self._conf_source), self.store.get("env")
        if env and folder.is_dir() and not (folder / env).is_dir():
            known = sorted(p.parent.name for p in folder.glob("*/globals.yml"))
            raise ClickException(
                f"Unknown study '{env}': there is no {folder.name}/{env}. Choose from: {', '.join(known)}."
            )

    def _wanted(self, names: list[str], selection: dict[str, Any]) -> Any:
        pipelines.set_requested(None)
        unknown = [name for name in names if name not in pipelines]
        if unknown:
            raise ClickException(f"Unknown pipeline '{unknown[0]}'. Choose from: {', '.join(sorted(pipelines))}.")
        combined = sum((pipelines[name] for name in names[1:]), pipelines[names[0] if names else "__default__"])
        keys = {"namespaces": "node_namespaces"}
        filters = {keys.get(k, k): v or None for k, v in selection.items() if k != "only_missing_outputs"}
        return combined.filter(**filters)

    def finished_catalog(self) -> DataCatalog:
        """The catalog after `run`, every data set that was asked for pinned to its current version."""
        made = dict.fromkeys(self.planned.provenance, self.session_id)
        return cast(DataCatalog, self.load_context()._get_catalog(load_versions={**self.planned.pins, **made}))

    @staticmethod
    def _announce(plan: Plan, asked: int) -> None:
        if not plan.stale:
            log.info("Nothing to run: the outputs of all %d nodes are current.", asked)
        for name, reason in plan.stale.items():
            log.info("To run: %s (%s)", name, reason)


@contextmanager
def study_lock(project: Path, params: StudyParams) -> Iterator[None]:
    """Refuse a second run of the same study and seed at once; the operating system frees the lock of a killed run."""
    path = project / "data" / f".lock-{params.study}-seed_{params.seed}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise ClickException(
            f"Another run of study '{params.study}' with seed {params.seed} is under way. Wait for it or stop it."
        ) from None


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn bad input, also inside a node, into the command line's one-line error."""
    try:
        yield
    except Exception as error:
        cause = next((e for e in _causes(error) if isinstance(e, InputError)), None)
        if cause is None:
            raise
        raise ClickException(str(cause)) from error


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
