"""Strict reading of a YAML file into a frozen dataclass.

Knows nothing of training. Unlike the usual loaders it never guesses: an unknown field, a missing
one or one of another type is an error, and all errors of a file are raised together.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from vllm_lmtp.errors import Refusal, raise_refusals, refuse

T = TypeVar("T")
_NAMES = {
    int: "an integer",
    float: "a number, written with a point (0.001 or 1.0e-3)",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML file.

    Raises:
        LMTPError: no such file, not YAML, or something other than a mapping.
    """
    import yaml

    remedy = "give the path of a configuration such as configs/train/s1/tiny.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise refuse(
            str(path), "path", found=error.strerror, expected="a YAML file", remedy=remedy
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise refuse(
            str(path),
            "content",
            found=f"unreadable YAML ({' '.join(str(error).split())})",
            expected="a YAML mapping",
            remedy="correct the line that the message names",
        ) from error
    if not isinstance(content, dict):
        raise refuse(
            str(path),
            "content",
            found=type(content).__name__,
            expected="a YAML mapping of fields",
            remedy=remedy,
        )
    return content


def parse(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build `cls`, a dataclass, from plain values; nested dataclasses from nested mappings.

    Fields may be int, float, str, bool, optional ones of these, `tuple[X, ...]`, and dataclasses.
    A float field takes an integer too. A dataclass may define `faults(self) -> dict[str, str]`,
    which names each field whose value is out of range and what is expected there.

    Raises:
        LMTPError: every unknown, missing, mistyped or out-of-range field of the file.
    """
    found: list[Refusal] = []
    result = _dataclass(cls, values, where, "", found)
    raise_refusals(found)
    return typing.cast(T, result)


def _dataclass(
    cls: type[Any], values: Mapping[str, Any], where: str, prefix: str, faults: list[Refusal]
) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    before = len(faults)
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            remedy = f"write {near[0]}" if near else "remove it"
            expected = "one of " + ", ".join(fields)
            faults.append(Refusal(where, f"{prefix}{key}", "an unknown field", expected, remedy))
    built: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _value(hints[name], values[name], where, prefix + name, faults)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            expected = _expected(hints[name])
            faults.append(Refusal(where, prefix + name, "no such field", expected, "add it"))
    if len(faults) > before:
        return None
    result = cls(**built)
    if hasattr(result, "faults"):
        for name, expected in result.faults().items():
            shown = repr(getattr(result, name))
            faults.append(Refusal(where, prefix + name, shown, expected, "correct the value"))
    return result


def _value(hint: Any, value: Any, where: str, field: str, faults: list[Refusal]) -> Any:
    nested = [kind for kind in _kinds(hint) if dataclasses.is_dataclass(kind)]
    if nested and value is not None:
        hint = nested[0]  # an optional mapping that was given
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return _dataclass(hint, value, where, f"{field}.", faults)
    elif typing.get_origin(hint) is tuple:
        if isinstance(value, list):
            item = typing.get_args(hint)[0]
            parts = enumerate(value)
            return tuple(_value(item, v, where, f"{field}[{i}]", faults) for i, v in parts)
    else:
        kinds = _kinds(hint)
        # bool is an int in Python, but never what a field for a number means.
        if type(value) in kinds:
            return value
        if type(value) is int and float in kinds:
            return float(value)
    faults.append(
        Refusal(where, field, f"{value!r}", _expected(hint), "write the value as expected")
    )
    return None


def _kinds(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(typing.get_args(hint))
    return (hint,)


def _expected(hint: Any) -> str:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return "a mapping of " + ", ".join(f.name for f in dataclasses.fields(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_expected(typing.get_args(hint)[0])}"
    return " or ".join(_NAMES.get(kind, str(kind)) for kind in _kinds(hint))
