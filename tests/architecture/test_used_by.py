"""Parameters that few nodes use: the marks name just the nodes whose code reads them, and those alone run again."""

import ast
import inspect
import json
import sys
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog

from xai_robustness.concepts.cav import CavParams
from xai_robustness.concepts.refinement import EffortParams
from xai_robustness.concepts.retrieval import fit_cavs
from xai_robustness.concepts.spectral import RevealParams
from xai_robustness.hooks.plan import Planner
from xai_robustness.parameters import StudyParams, components_of
from xai_robustness.pipeline_registry import register_pipelines
from xai_robustness.registry import Registry
from xai_robustness.robustness.params import RobustnessParams
from xai_robustness.types import Params, UsedBy

Read = tuple[type[Params], str]
Known = dict[str, type[Params]]


class Code:
    """A function or class: the fields of parameter models that it reads.

    The model of a value is known from annotations, as a field of another model, and from what it is bound to.
    """

    def __init__(self, definition: Any) -> None:
        self.module = sys.modules[definition.__module__]
        self.reads: set[Read] = set()
        own = [inspect.get_annotations(base) for base in getattr(definition, "__mro__", ())]
        self.known = {f"self.{k}": m for some in own for k, a in some.items() if (m := model_in(a))}
        for node in ast.walk(tree_of(definition)):
            if isinstance(node, ast.FunctionDef):
                self._read(node)

    def _read(self, function: ast.FunctionDef) -> None:
        nodes = [node for node in ast.walk(function) if hasattr(node, "lineno")]
        for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
            match node:
                case ast.arg(arg=name, annotation=ast.expr() as annotation):
                    names = [n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)]
                    for model in filter(None, (model_in(getattr(self.module, n, None)) for n in names)):
                        self.known[name] = model
                case ast.Assign(targets=[target], value=value):
                    both = [target, value]
                    pairs = zip(target.elts, value.elts) if all(isinstance(x, ast.Tuple) for x in both) else [both]
                    self.known |= {ast.unparse(t): m for t, v in pairs if (m := self._model(v))}
        for node in nodes:
            if isinstance(node, ast.expr):
                self._model(node)

    def _model(self, value: ast.expr) -> type[Params] | None:
        """The parameter model of an expression; notes what it reads."""
        match value:
            case ast.Name() | ast.Attribute() if ast.unparse(value) in self.known:
                return self.known[ast.unparse(value)]
            case ast.Call(func=ast.Attribute(value=copied, attr="model_copy")):
                return self._model(copied)
            case ast.Attribute(value=inner, attr=name) if (model := self._model(inner)) and name != "model_copy":
                self.reads |= reads_of(model, name)
                return model_in(model.model_fields[name].annotation) if name in model.model_fields else None
        return None


def model_in(annotation: Any) -> type[Params] | None:
    """The parameter model that an annotation is or holds."""
    if isinstance(annotation, type) and issubclass(annotation, Params):
        return annotation
    return next((m for part in typing.get_args(annotation) if (m := model_in(part))), None)


def reads_of(model: type[Params], name: str) -> set[Read]:
    """A field, what an own method or property of the model reads, or, as `model_dump` does, everything."""
    if name in model.model_fields:
        return {(model, name)}
    if name not in vars(model):
        return {(model, field) for field in model.model_fields}
    body = next(node for node in tree_of(model).body if getattr(node, "name", "") == name)
    inner = {n.attr for n in ast.walk(body) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"}
    return {read for attribute in inner - {name} for read in reads_of(model, attribute)}


@cache
def tree_of(definition: Any) -> Any:
    """The function or class at the top of the module in which something is defined, else the module."""
    module, name = sys.modules[definition.__module__], definition.__qualname__.partition(".")[0]
    tree = ast.parse(inspect.getsource(module))
    return next((node for node in tree.body if getattr(node, "name", None) == name), tree)


@cache
def uses(definition: Any) -> tuple[Any, ...]:
    """Functions and classes of its package that the code of one names."""
    module = sys.modules[definition.__module__]
    names = {n.id for n in ast.walk(tree_of(definition)) if isinstance(n, ast.Name)}
    found = [one for name in sorted(names) for one in entries(getattr(module, name, None))]
    package = module.__name__.partition(".")[0]
    return tuple(one for one in found if (one.__module__ or "").partition(".")[0] == package)


def entries(value: Any) -> Iterator[Any]:
    """What a name stands for: a function or class (not of parameters), or those of a registry or table."""
    if isinstance(value, Registry | dict):
        yield from (one for name in value for one in entries(value[name]))
    elif isinstance(value, tuple | list):
        yield from (one for part in value for one in entries(part))
    elif inspect.isroutine(value) or (isinstance(value, type) and not issubclass(value, Params)):
        yield value


@cache
def reads(function: Any) -> frozenset[Read]:
    """Fields that a function, or anything it can reach, reads."""
    reached, waiting = {function}, [function]
    while waiting:
        more = set(uses(waiting.pop())) - reached
        reached |= more
        waiting += more
    return frozenset(read for one in reached for read in code_reads(one))


@cache
def code_reads(definition: Any) -> frozenset[Read]:
    return frozenset(Code(definition).reads)


def fields(model: type[Params], prefix: str = "") -> Iterator[tuple[str, Read, UsedBy | None]]:
    """Dotted name, field and mark, at any depth."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", (model, name), next((m for m in field.metadata if isinstance(m, UsedBy)), None)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Params):
            yield from fields(field.annotation, f"{prefix}{name}.")


def takers_of(group: str) -> dict[str, Any]:
    """Name -> node of those that take a group of parameters."""
    return {node.name.rpartition(".")[2]: node for node in GRAPH.nodes if f"params:{group}" in node.inputs}


def readers(name: str, read: Read) -> set[str]:
    """Nodes that take the field's group and read the field."""
    return {taker for taker, node in takers_of(name.partition(".")[0]).items() if read in reads(node.func)}


GRAPH = register_pipelines()["__default__"]
MARKED = {name: (read, mark) for name, read, mark in fields(StudyParams) if mark}


@pytest.mark.parametrize("name", MARKED)
def test_a_mark_names_the_nodes_that_read_the_field(name: str) -> None:
    read, mark = MARKED[name]
    assert set(mark.nodes) == readers(name, read)


@pytest.mark.parametrize("group", ["reveal", "sample_retrieval"])
def test_every_field_has_a_node_that_reads_it(group: str) -> None:
    """Otherwise it does nothing, or `reads` loses track of it."""
    own = {name: read for name, read, _ in fields(StudyParams) if name.startswith(f"{group}.")}
    assert [name for name, read in own.items() if not readers(name, read)] == []


def direct(params: RevealParams) -> int:
    return params.max_suspects


def called(params: RevealParams) -> int:
    return direct(params)


def bound(params: RevealParams) -> str:
    own, _ = params.neurons, 0
    return own.rank_by


def copied(params: RevealParams) -> str:
    quick = params.model_copy(update={"views": ("input",)})
    return quick.layout


class Held:
    params: RevealParams

    def value(self) -> bool:
        return self.params.virelay


def held(job: Held) -> bool:
    return job.value()


def own_property(params: RobustnessParams) -> object:
    return params.chosen


def dumped(params: EffortParams) -> dict[str, Any]:
    return params.model_dump()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (direct, {"max_suspects"}),
        (called, {"max_suspects"}),
        (bound, {"neurons", "rank_by"}),
        (copied, {"layout"}),
        (held, {"virelay"}),
        (own_property, {"table", "corruptions"}),
        (dumped, set(EffortParams.model_fields)),
        (fit_cavs, set(CavParams.model_fields) - {"baselines"}),
    ],
)
def test_what_a_function_reads_is_found(function: Any, expected: set[str]) -> None:
    assert {name for _, name in reads(function)} == expected


def run_again(before: StudyParams, after: StudyParams) -> set[str]:
    """Nodes with another fingerprint."""
    old, new = (Planner(GRAPH, DataCatalog(), components_of(params)) for params in (before, after))
    return {node.name.rpartition(".")[2] for node in GRAPH.nodes if old.fingerprint(node) != new.fingerprint(node)}


def with_values(values: dict[str, Any]) -> StudyParams:
    return StudyParams.model_validate({"study": "x", **values})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"reveal": {"virelay": True}}, {"export_virelay"}),
        (
            {"reveal": {"layout": "eigenvectors"}},
            {
                "lay_out",
                "plot_embedding",
                "write_page",
                "export_virelay",
                "rank_neurons",
                "explain_neurons",
                "plot_neurons",
            },
        ),
        ({"reveal": {"prototypes": 2}}, {"find_prototypes", "plot_prototypes"}),
        (
            {"reveal": {"neurons": {"count": 2}}},
            {"synthesize_references", "rank_neurons", "explain_neurons", "plot_neurons"},
        ),
        (
            {"reveal": {"neurons": {"rank_by": "relevance_pattern"}}},
            {"rank_neurons", "explain_neurons", "plot_neurons"},
        ),
        ({"reveal": {"neurons": {"concepts": 2}}}, {"plot_neurons"}),
        ({"reveal": {"neurons": {"explained": 2}}}, {"explain_neurons", "plot_neurons"}),
        ({"sample_retrieval": {"effort": {"repeats": 1}}}, {"measure_effort"}),
        ({"sample_retrieval": {"cavs": {"baselines": ["nmf"]}}}, {"score_samples", "plot_retrieval"}),
    ],
)
def test_another_value_runs_its_nodes_and_what_follows_again(changed: dict[str, Any], expected: set[str]) -> None:
    assert run_again(with_values({}), with_values(changed)) == expected


@pytest.mark.parametrize(
    ("changed", "again", "untouched"),
    [
        ({"mitigation": {"allowed_clean_loss": 0.2}}, "select_correction", "correct_models"),
        ({"robustness_eval": {"attacks": [{"kind": "fgsm", "eps": 0.01}]}}, "measure_attacks", "evaluate_corruptions"),
        ({"robustness_eval": {"layerwise": {"n": 20}}}, "study_layers", "measure_attacks"),
        ({"reveal": {"max_suspects": 3}}, "correct_models", "rank_neurons"),
        ({"reveal": {"suspicion": {"level": 0.1}}}, "review_suspects", "reveal_suspects"),
        ({"reveal": {"transplant": {"area": 0.2}}}, "review_suspects", "reveal_suspects"),
        ({"sample_retrieval": {"review": {"rounds": 2}}}, "correct_models", "measure_effort"),
    ],
)
def test_another_value_leaves_nodes_that_do_not_use_it(changed: dict[str, Any], again: str, untouched: str) -> None:
    found = run_again(with_values({}), with_values(changed))
    assert again in found and untouched not in found


@pytest.mark.parametrize(
    ("group", "names", "expected"),
    [
        ("reveal", {"neurons": {"spurious": "{}"}}, {"rank_neurons"}),
        (
            "sample_retrieval",
            {"review": {"reviewer": "csv", "csv": "{}"}},
            {"review_suspects", "refine_labels", "propose_samples"},
        ),
        ("sample_retrieval", {"cavs": {"given": "{}"}}, {"fit_cavs"}),
        ("training", {"checkpoint": "{}"}, set(takers_of("training"))),
        ("comparisons", {"models": {"other": {"start": "{}"}}}, set(takers_of("comparisons"))),
    ],
)
def test_the_content_of_a_file_counts_where_its_name_does(
    tmp_path: Path, group: str, names: dict[str, Any], expected: set[str]
) -> None:
    path = tmp_path / "file"
    params = with_values({group: json.loads(json.dumps(names).replace("{}", str(path)))})
    found = []
    for text in ("before", "after"):
        path.write_text(text)
        found.append({node: components_of(params)(f"params:{group}", node) for node in takers_of(group)})
    assert {node for node in takers_of(group) if found[0][node] != found[1][node]} == expected
