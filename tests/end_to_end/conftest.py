"""A project folder in which the smoke study has run once."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.startup import bootstrap_project

from xai_robustness.session import IncrementalSession

ROOT = Path(__file__).parents[2]


class Project:
    """Runs Kedro sessions in a folder and tells which nodes they executed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *pipelines: str, env: str = "smoke", selection: dict[str, Any] | None = None, **params: Any):
        """Run; return the session and the names of the nodes that ran, without their stage."""
        bootstrap_project(self.folder)
        with IncrementalSession.create(self.folder, env=env, runtime_params=_nested(params)) as session:
            session.run(pipeline_names=list(pipelines), **(selection or {}))
        return session, [name.rpartition(".")[2] for name in session.planned.stale]

    def files(self) -> set[str]:
        """Everything below data/."""
        data = self.folder / "data"
        return {str(p.relative_to(data)) for p in data.rglob("*") if p.is_file()} if data.exists() else set()


def _nested(params: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in params.items():
        *parents, last = name.split("__")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


def make_project(folder: Path) -> Project:
    """A folder with the configuration and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "src").mkdir()
    (folder / "src" / "xai_robustness").symlink_to(ROOT / "src" / "xai_robustness")
    return Project(folder)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that has never run."""
    monkeypatch.delenv("XAI_DATA_ROOT", raising=False)
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which the whole smoke study has run."""
    project = make_project(tmp_path_factory.mktemp("finished") / "project")
    with _environment_without("XAI_DATA_ROOT"):
        project.session, project.ran = project.run()  # type: ignore[attr-defined]
    logging.getLogger(__name__).info("smoke study ran in %s", project.folder)
    return project


@contextmanager
def _environment_without(name: str) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.delenv(name, raising=False)
    yield
    patch.undo()
