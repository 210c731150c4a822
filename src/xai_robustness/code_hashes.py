"""What a node's function is made of: hashes of the package's syntax trees that it reaches, docstrings left out."""

import ast
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def code_hashes(function: Callable[..., Any]) -> dict[str, str]:
    """Hash the code that `function` can reach inside its package.

    Of its own module, only the function and the module-level names that it uses, directly or not, count; of every
    module imported by those, the whole module and what it imports in turn.

    Args:
        function: a function of an importable module.

    Returns:
        Module name (the function's own: `module:function`) -> hexadecimal hash.
    """
    module = function.__module__
    package = module.partition(".")[0]
    tree = _parse(_source_path(module))
    used = _definitions_used(tree, function.__name__)
    own = "\n".join(ast.dump(node) for node in used)
    hashes = {f"{module}:{function.__name__}": _digest(own)}
    names = {name for node in used for name in _names(node)}
    waiting = [m for node in tree.body for m in _imports(node, module, package, names)]
    waiting += [m for node in used for child in ast.walk(node) for m in _imports(child, module, package, None)]
    while waiting:
        name = waiting.pop()
        if name in hashes or name == module:
            continue
        hashes[name], imported = _module(name, package)
        waiting += imported
    return dict(sorted(hashes.items()))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@cache
def _source_path(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _parse(path: Path | None) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module(body=[], type_ignores=[])
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | Definition) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


@cache
def _module(name: str, package: str) -> tuple[str, tuple[str, ...]]:
    tree = _parse(_source_path(name))
    imported = tuple(m for node in ast.walk(tree) for m in _imports(node, name, package, None))
    parent = name.rpartition(".")[0]
    return _digest(ast.dump(tree)), imported + ((parent,) if parent else ())


def _imports(node: ast.AST, module: str, package: str, names: set[str] | None) -> Iterator[str]:
    """Modules of `package` that an import statement brings in, of those bound to `names` if given."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            if alias.name.partition(".")[0] == package and (names is None or bound in names):
                yield alias.name
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            is_package = (_source_path(module) or Path()).name == "__init__.py"
            anchor = module.split(".")[: len(module.split(".")) - node.level + is_package]
            base = ".".join([*anchor, base]).rstrip(".")
        if base.partition(".")[0] != package:
            return
        for alias in node.names:
            if names is None or (alias.asname or alias.name) in names:
                inner = f"{base}.{alias.name}"
                yield inner if _source_path(inner) else base


def _names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _definitions_used(tree: ast.Module, start: str) -> list[ast.stmt]:
    """Module-level statements that define `start` and, transitively, the names that it uses."""
    defined: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        if isinstance(node, Definition):
            defined.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in {n for target in targets for n in _names(target)}:
                defined.setdefault(name, []).append(node)
    found: dict[str, None] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in found or name not in defined:
            continue
        found[name] = None
        waiting += sorted(used for node in defined[name] for used in _names(node))
    return [node for name in sorted(found) for node in defined[name]]
