"""Which nodes to run: fingerprints of outputs against what lies on disk, and the reason for each difference."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from xai_robustness.code_hashes import code_hashes
from xai_robustness.io.datasets import versioned

LIBRARIES = ("torch", "zennit", "captum", "scikit-learn")
NEUTRAL_INPUTS = frozenset({"params:device", "batch_sizes"})
MEASURES_DEVICE = "measures_device"
"""Tag of a node whose outputs depend on the device."""

Components = dict[str, str]
Describe = Callable[[str, str], Components]


def digest(value: Any) -> str:
    """Short hash of a JSON value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


@dataclass
class Plan:
    """What a run has to do.

    Attributes:
        stale: names of the nodes to run, in order, each with the reason in words.
        pins: data set -> version on disk that matches, for everything that the stale nodes and those asked for load,
            and for what these make.
        provenance: data set -> record to be stored with the version that this run writes.
    """

    stale: dict[str, str] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)


class Planner:
    """Compares the graph with the disk.

    Args:
        pipeline: the whole graph.
        catalog: data sets; those of `io` keep the provenance of their versions.
        describe: parameter input (`params:mitigation`) and name of a node without its stage -> the components that
            count there (values, content of the files they name).
        given: data set -> version that the caller fixed (`--load-versions`); its producer is not run.
    """

    def __init__(
        self, pipeline: Pipeline, catalog: DataCatalog, describe: Describe, given: Mapping[str, str] | None = None
    ) -> None:
        self.pipeline = pipeline
        self.catalog = catalog
        self.describe = describe
        self.given = dict(given or {})
        self._producer = {output: node for node in pipeline.nodes for output in node.outputs}
        self._records: dict[str, dict[str, dict[str, Any]]] = {}
        self._components: dict[str, Components] = {}

    def plan(self, requested: Collection[str], exact: bool = False) -> Plan:
        """Plan the run of the nodes named `requested`.

        Args:
            requested: node names; without `exact` their ancestors run too where a stale node lacks an input.
            exact: run just these nodes, on the newest inputs on disk where none matches.
        """
        plan = Plan()
        wanted = [node for node in self.pipeline.nodes if node.name in requested]
        if exact:
            outputs = {output for node in wanted for output in node.outputs}
            for name in {i for node in wanted for i in node.inputs} - outputs:
                self._take_newest(name)
        stale = {node.name for node in wanted if exact or not self._fresh(node)}
        if not exact:
            stale = self._with_missing_ancestors(stale)
        for node in self.pipeline.nodes:
            if node.name in stale:
                plan.stale[node.name] = "asked for by name" if exact else self._reason(node)
                record = {"node": node.name, "fingerprint": self.fingerprint(node), "components": self.components(node)}
                plan.provenance.update(dict.fromkeys(node.outputs, record))
        made = set(plan.provenance)
        concerned = stale | {node.name for node in wanted}
        needed = {i for node in self.pipeline.nodes if node.name in concerned for i in node.inputs}
        for name in (needed | {o for node in wanted for o in node.outputs}) - made:
            match = self.match(name)
            if match:
                plan.pins[name] = match
        return plan

    def match(self, name: str) -> str | None:
        """Version of data set `name` on disk that today's graph would make, newest first."""
        if name in self.given:
            return self.given[name]
        if name not in self._producer:
            return None
        wanted = self.fingerprint(self._producer[name])
        versions = [v for v, record in self._provenances(name).items() if record.get("fingerprint") == wanted]
        return versions[-1] if versions else None

    def fingerprint(self, node: Node) -> str:
        """Hash of everything that the outputs of `node` depend on."""
        return digest(self.components(node))

    def components(self, node: Node) -> Components:
        """The parts of the fingerprint: code, libraries, parameters, inputs."""
        if node.name not in self._components:
            parts = {f"code:{name}": value for name, value in code_hashes(node.func).items()}
            parts.update({f"library:{name}": _installed(name) for name in LIBRARIES})
            neutral = NEUTRAL_INPUTS - ({"params:device"} if MEASURES_DEVICE in node.tags else set())
            for name in sorted(set(node.inputs) - neutral):
                parts.update(self._input(name, node))
            self._components[node.name] = parts
        return self._components[node.name]

    def _input(self, name: str, node: Node) -> Components:
        if name.startswith("params:"):
            return self.describe(name, node.name.rpartition(".")[2])
        if name in self.given:
            record = self._provenances(name).get(self.given[name], {})
            return {f"input:{name}": record.get("fingerprint", self.given[name])}
        if name in self._producer:
            return {f"input:{name}": self.fingerprint(self._producer[name])}
        return {}

    def _provenances(self, name: str) -> dict[str, dict[str, Any]]:
        if name not in self._records:
            dataset = versioned(self.catalog, name)
            self._records[name] = dataset.provenances() if dataset else {}
        return self._records[name]

    def _fresh(self, node: Node) -> bool:
        return all(self.match(output) for output in node.outputs)

    def _with_missing_ancestors(self, stale: set[str]) -> set[str]:
        for node in reversed(self.pipeline.nodes):
            if node.name in stale:
                lacking = [i for i in node.inputs if i in self._producer and not self.match(i)]
                stale |= {self._producer[i].name for i in lacking}
        return stale

    def _take_newest(self, name: str) -> None:
        versions = list(self._provenances(name)) if not name.startswith("params:") else []
        if versions and not self.match(name):
            self.given[name] = versions[-1]
            self._components.clear()

    def _reason(self, node: Node) -> str:
        records = [record for output in node.outputs for record in self._provenances(output).values()]
        if not records:
            return "not made yet"
        old, new = records[-1].get("components", {}), self.components(node)
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        return "changed: " + ", ".join(changed[:4]) + (", ..." if len(changed) > 4 else "") if changed else "incomplete"


def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


class Provenance:
    """Hook that hands each data set of the run the record to be stored with its new version."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @hook_impl
    def before_pipeline_run(self, catalog: DataCatalog) -> None:
        """Give every output of the run its provenance."""
        for name, record in self.plan.provenance.items():
            dataset = versioned(catalog, name)
            if dataset:
                dataset.provenance = record
