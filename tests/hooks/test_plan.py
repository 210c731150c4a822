import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner

from xai_robustness.hooks.plan import Plan, Planner, Provenance

calls: list[str] = []


def first(a: int) -> pd.DataFrame:
    calls.append("first")
    return pd.DataFrame({"x": [a]})


def second(table: pd.DataFrame, b: int) -> pd.DataFrame:
    calls.append("second")
    return table + b


def third(table: pd.DataFrame) -> pd.DataFrame:
    calls.append("third")
    return table * 2


GRAPH = Pipeline(
    [
        node(first, "params:a", "one", name="first"),
        node(second, ["one", "params:b"], "two", name="second"),
        node(third, "two", "three", name="third"),
    ]
)
ALL = ("first", "second", "third")


class Project:
    """A folder in which the graph is planned and run with given parameters."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.runs = 0

    def run(self, a=1, b=1, requested=ALL, exact=False, given=None, execute=True) -> Plan:
        self.runs += 1
        calls.clear()
        values = {"params:a": a, "params:b": b}
        config = {
            name: {
                "type": "xai_robustness.io.datasets.Table",
                "filepath": str(self.folder / f"{name}.csv"),
                "versioned": True,
            }
            for name in ("one", "two", "three")
        }
        planner = Planner(GRAPH, DataCatalog.from_config(config), lambda name, node: {name: str(values[name])}, given)
        plan = planner.plan(requested, exact)
        if execute and plan.stale:
            version = f"2026-01-01T00.00.{self.runs:02d}.000Z"
            catalog = DataCatalog.from_config(config, load_versions=plan.pins, save_version=version)
            for name, value in values.items():
                catalog[name] = value
            Provenance(plan).before_pipeline_run(catalog)
            SequentialRunner().run(GRAPH.only_nodes(*plan.stale), catalog, _create_hook_manager())
        return plan

    def value(self, plan: Plan) -> int:
        folder = self.folder / "three.csv"
        version = plan.pins.get("three") or sorted(p.name for p in folder.iterdir() if p.name[0] != ".")[-1]
        return int(pd.read_csv(folder / version / "three.csv").x[0])


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_everything_once_then_nothing(project):
    assert list(project.run().stale) == list(ALL)
    assert calls == list(ALL)
    assert not project.run().stale


def test_a_changed_parameter_runs_what_follows_and_changing_it_back_runs_nothing(project):
    project.run()
    changed = project.run(b=5)
    assert list(changed.stale) == ["second", "third"]
    assert changed.stale["second"] == "changed: params:b"
    assert project.value(changed) == 12
    back = project.run(b=1)
    assert not back.stale
    assert project.value(back) == 4


def test_a_missing_input_brings_its_producer_back(project):
    plan = project.run(requested=["third"])
    assert list(plan.stale) == list(ALL)


def test_only_what_is_asked_for_runs(project):
    assert list(project.run(requested=["first"]).stale) == ["first"]


def test_what_current_nodes_load_is_pinned_too(project):
    """Otherwise a reader of the finished catalog gets the newest table beside what an older one made."""
    project.run(a=1)
    version = next(p.name for p in (project.folder / "one.csv").iterdir())
    project.run(a=2)
    plan = project.run(a=1, requested=["second"])
    assert not plan.stale and plan.pins["one"] == version


def test_downstream_of_an_older_version_that_is_reused(project):
    project.run(a=1)
    project.run(a=2)
    plan = project.run(a=1, b=7)
    assert list(plan.stale) == ["second", "third"]
    assert project.value(plan) == (1 + 7) * 2


def test_by_name_runs_exactly_that_and_is_not_taken_for_current(project):
    project.run(a=1)
    plan = project.run(a=2, requested=["third"], exact=True)
    assert list(plan.stale) == ["third"]
    assert project.value(plan) == 4
    assert list(project.run(a=2).stale) == list(ALL)


def test_a_fixed_load_version_is_used(project):
    project.run(a=1)
    version = next(p.name for p in (project.folder / "one.csv").iterdir())
    plan = project.run(a=9, given={"one": version})
    assert not plan.stale


def test_a_half_written_output_is_not_taken(project):
    project.run()
    for path in (project.folder / "two.csv").iterdir():
        (path / "provenance.json").unlink()
    assert "second" in project.run(b=1).stale
