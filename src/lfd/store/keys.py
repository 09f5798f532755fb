"""Keys of artifacts: a tree of dataclasses as canonical JSON, and its hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lfd.errors import UserError
from lfd.registry import file_of, name_of, part_of


def key_of(kind: str, material: Any) -> str:
    """`kind` and 16 hex digits of the sha256 of the material's canonical JSON."""
    text = json.dumps(describe(material), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def describe(value: Any) -> Any:
    """A tree of dataclasses, enums, mappings with string keys, sequences and plain values as canonical JSON.

    A dataclass gives its registered `group/name`, its class variable `revision` (1 without), and its fields. A field
    with `metadata={"key": False}` is left out; one with `"set"` is left out while it has its default, so that artifacts
    from before the field existed keep their keys. A dataclass that is not registered has no name if it is of the
    declared type of its field, else `module:Class`. A class that a configuration names by its place gives the sha256 of
    its file too. An int in a field declared float becomes a float.

    Raises UserError for NaN and for other types. A path is refused too: the sha256 of a file's content belongs in a
    key, not its place.
    """
    return _described(value, Any, "")


def _described(value: Any, declared: Any, where: str) -> Any:
    match value:
        case Enum():
            return value.name
        case None | bool() | str():
            return value
        case int():
            return float(value) if _is_float(declared) else value
        case float():
            return _described_float(value, where)
        case list() | tuple():
            element = _element(declared)
            return [_described(item, element, f"{where}[{index}]") for index, item in enumerate(value)]
        case Mapping():
            return _described_mapping(value, _element(declared), where)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _described_dataclass(value, declared, where)
    raise UserError(
        f"{where or 'the value'} is a {type(value).__name__} and cannot be part of an artifact's key: expected "
        'plain values; give its content instead, or mark the field metadata={"key": False}'
    )


def _described_float(value: float, where: str) -> Any:
    if math.isnan(value):
        raise UserError(f"{where or 'the value'} is NaN and cannot be part of an artifact's key: expected a number")
    if math.isinf(value):
        return {"float": "inf" if value > 0 else "-inf"}
    return value + 0.0  # turns -0.0, equal but written otherwise, into 0.0


def _described_mapping(value: Mapping[Any, Any], element: Any, where: str) -> dict[str, Any]:
    for name in value:
        if not isinstance(name, str):
            raise UserError(f"{where or 'the value'} has the key {name!r}: expected strings as keys of a mapping")
    return {name: _described(value[name], element, f"{where}.{name}".lstrip(".")) for name in value}


def _described_dataclass(value: Any, declared: Any, where: str) -> dict[str, Any]:
    cls = type(value)
    hints = get_type_hints(cls)
    described = {
        field.name: _described(getattr(value, field.name), hints[field.name], f"{where}.{field.name}".lstrip("."))
        for field in fields(value)
        if _counts(field, getattr(value, field.name))
    }
    is_declared = cls in _alternatives(declared) and name_of(cls) is None
    part = {} if is_declared else {"part": part_of(value)}
    if (file := file_of(cls)) is not None:
        part["file"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return {**part, "revision": getattr(cls, "revision", 1), "fields": described}


def _counts(field: Field[Any], value: Any) -> bool:
    """True if the value of a field is part of the key."""
    setting = field.metadata.get("key", True)
    return bool(value != field.default if setting == "set" else setting)


def _alternatives(declared: Any) -> tuple[Any, ...]:
    return get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)


def _is_float(declared: Any) -> bool:
    alternatives = _alternatives(declared)
    return float in alternatives and int not in alternatives


def _element(declared: Any) -> Any:
    """The declared type of the elements of a list, tuple[T, ...] or dict; Any if it is not declared."""
    for alternative in _alternatives(declared):
        match get_origin(alternative), get_args(alternative):
            case (origin, (element,)) if origin is list:
                return element
            case (origin, (element, last)) if origin is tuple and last is Ellipsis:
                return element
            case (origin, (_, element)) if origin is dict:
                return element
    return Any
