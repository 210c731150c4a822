"""Benchmarks run for hours and no test runs them; what they call must at least take the arguments that they give."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def called(source: str) -> list[tuple[ast.Call, Any]]:
    """Calls of functions that were imported from the project by name, but for those with starred arguments."""
    tree, functions = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xai_robustness"):
            module = import_module(str(node.module))
            found = {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
            functions |= {name: each for name, each in found.items() if inspect.isfunction(each)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    plain = [c for c in calls if all(k.arg for k in c.keywords) and not any(isinstance(a, ast.Starred) for a in c.args)]
    return [(call, functions[call.func.id]) for call in plain if call.func.id in functions]  # type: ignore[attr-defined]


def binds(call: ast.Call, function: Any) -> bool:
    try:
        inspect.signature(function).bind(*call.args, **{str(k.arg): k for k in call.keywords})
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_calls_of_the_project_take_the_arguments_that_they_are_given(path: Path) -> None:
    wrong = [f"{path.name}:{call.lineno} {f.__name__}" for call, f in called(path.read_text()) if not binds(call, f)]
    assert not wrong


def test_a_missing_argument_is_found() -> None:
    source = "from xai_robustness.randomness import numpy_rng\nnumpy_rng()\nnumpy_rng(1, 'a')"
    assert [binds(*each) for each in called(source)] == [False, True]
