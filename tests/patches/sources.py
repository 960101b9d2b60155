"""Looks names up in an unpacked vLLM by parsing it, so that any version can be asked anywhere."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Scope = ast.Module | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Sources:
    """A tree of Python sources; root is the folder that holds the package's folder."""

    root: Path

    def text(self, module: str) -> str:
        """The source of a module.

        Raises:
            LookupError: there is no such module.
        """
        stem = self.root.joinpath(*module.split("."))
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return file.read_text(encoding="utf-8")
        raise LookupError(f"no module {module}")

    def find(self, module: str, attribute: str) -> ast.AST:
        """The statement that binds `attribute`, such as `EngineArgs.add_cli_args`, in a module.

        Raises:
            LookupError: nothing in the module binds it.
        """
        found: ast.AST = _parse(self.text(module))
        for name in attribute.split("."):
            if not isinstance(found, (ast.Module, ast.ClassDef)):
                raise LookupError(f"{module}:{attribute}: {name} is looked up in no class")
            found = _binding_of(name, found, f"{module}:{attribute}")
        return found

    def source(self, module: str, attribute: str) -> str:
        """The text of the statement that binds `attribute` in a module.

        Raises:
            LookupError: nothing in the module binds it.
        """
        found = ast.get_source_segment(self.text(module), self.find(module, attribute))
        assert found is not None
        return found

    def parameters(self, module: str, function: str) -> list[str]:
        """Names of a function's parameters in order, keyword-only ones last.

        Raises:
            LookupError: it is no function of that module.
        """
        found = self.find(module, function)
        if not isinstance(found, FUNCTIONS):
            raise LookupError(f"{module}:{function} is no function here")
        spec = found.args
        return [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]


@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def _binding_of(name: str, scope: Scope, whole: str) -> ast.AST:
    """The last statement of `scope` that binds `name`, also inside `if` and `try`."""
    found = [node for node in _statements(scope) if name in _names_bound_by(node)]
    if not found:
        raise LookupError(f"{whole}: nothing binds {name}")
    return found[-1]


def _statements(node: ast.AST) -> list[ast.AST]:
    """Statements of a scope, without those of the functions and classes in it."""
    inner: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler)):
            inner.append(child)
            if not isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                inner += _statements(child)
    return inner


def _names_bound_by(node: ast.AST) -> set[str]:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        return set()
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
