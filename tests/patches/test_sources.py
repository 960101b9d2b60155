"""The look-up of names in sources, on a small tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.patches.sources import Sources

MODULE = """
import os.path
from a import b as c, d
try:
    from fast import kernel
except ImportError:
    kernel = None
x: int = 1
y, z = 2, 3
if x:
    def chosen(one, /, two, *rest, three, **more): ...
class Outer:
    field: int
    maker = dict
    class Inner:
        async def method(self, value=1): hidden = 1
def outer():
    inside = 1
"""


@pytest.fixture
def tree(tmp_path: Path) -> Sources:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("top = 1")
    (tmp_path / "pkg" / "module.py").write_text(MODULE)
    return Sources(tmp_path)


@pytest.mark.parametrize("name", ["os", "c", "d", "kernel", "x", "y", "z", "chosen", "Outer"])
def test_whatever_binds_a_name_in_the_module_is_found(tree: Sources, name: str) -> None:
    assert isinstance(tree.find("pkg.module", name), ast.stmt)


@pytest.mark.parametrize("name", ["Outer.field", "Outer.maker", "Outer.Inner.method"])
def test_whatever_binds_a_name_in_a_class_is_found(tree: Sources, name: str) -> None:
    assert isinstance(tree.find("pkg.module", name), ast.stmt)


def test_packages_are_modules(tree: Sources) -> None:
    tree.find("pkg", "top")


@pytest.mark.parametrize(
    "name", ["b", "path", "inside", "hidden", "field", "Outer.method", "outer.inside", "x.real"]
)
def test_what_is_not_bound_there_is_not_found(tree: Sources, name: str) -> None:
    with pytest.raises(LookupError):
        tree.find("pkg.module", name)


def test_missing_modules_are_not_found(tree: Sources) -> None:
    with pytest.raises(LookupError, match=r"no module pkg\.gone"):
        tree.find("pkg.gone", "x")


def test_the_text_of_a_statement_is_its_own_alone(tree: Sources) -> None:
    assert tree.source("pkg.module", "x") == "x: int = 1"
    method = "async def method(self, value=1): hidden = 1"
    assert tree.source("pkg.module", "Outer.Inner.method") == method
    with pytest.raises(LookupError):
        tree.source("pkg.module", "Outer.gone")


def test_parameters_come_in_order(tree: Sources) -> None:
    assert tree.parameters("pkg.module", "chosen") == ["one", "two", "three"]
    assert tree.parameters("pkg.module", "Outer.Inner.method") == ["self", "value"]
    with pytest.raises(LookupError):
        tree.parameters("pkg.module", "Outer")
