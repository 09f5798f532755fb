"""What an artifact's key is made of: a tree of dataclasses as canonical JSON, and its hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lfd.errors import Refused
from lfd.registry import name_of, part_of


def key_of(kind: str, material: Any) -> str:
    """`kind` and 16 hex digits of the sha256 of the material's canonical JSON."""
    text = json.dumps(describe(material), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def describe(value: Any) -> Any:
    """A tree of dataclasses, enums, mappings with string keys, sequences and plain values as canonical JSON.

    A dataclass gives its registered `group/name`, its class variable `revision` (1 without), and its fields but those
    with `metadata={"key": False}`, or `"set"` where they have their default: what was stored before there was such a
    field keeps its key. A dataclass that is no part needs no name where its field declares it; elsewhere its name is
    `module:Class`. An int in a field declared float is that float. Refused: anything else, paths above all
    (what a file holds belongs in a key, by its sha256, and never where it lies) and NaN.
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
            return [_described(one, element, f"{where}[{index}]") for index, one in enumerate(value)]
        case Mapping():
            return _described_mapping(value, _element(declared), where)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _described_dataclass(value, declared, where)
    raise Refused(
        f"{where or 'the value'} is a {type(value).__name__} and cannot be part of an artifact's key: expected "
        'plain values; give its content instead, or mark the field metadata={"key": False}'
    )


def _described_float(value: float, where: str) -> Any:
    if math.isnan(value):
        raise Refused(f"{where or 'the value'} is NaN and cannot be part of an artifact's key: expected a number")
    if math.isinf(value):
        return {"float": "inf" if value > 0 else "-inf"}
    return value + 0.0  # turns -0.0, equal but written otherwise, into 0.0


def _described_mapping(value: Mapping[Any, Any], element: Any, where: str) -> dict[str, Any]:
    for name in value:
        if not isinstance(name, str):
            raise Refused(f"{where or 'the value'} has the key {name!r}: expected strings as keys of a mapping")
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
    return {**part, "revision": getattr(cls, "revision", 1), "fields": described}


def _counts(field: Field[Any], value: Any) -> bool:
    """Is a field's value part of the key?"""
    told = field.metadata.get("key", True)
    return bool(value != field.default if told == "set" else told)


def _alternatives(declared: Any) -> tuple[Any, ...]:
    return get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)


def _is_float(declared: Any) -> bool:
    alternatives = _alternatives(declared)
    return float in alternatives and int not in alternatives


def _element(declared: Any) -> Any:
    """The declared type of the elements of a list, tuple[T, ...] or dict; Any where nothing is declared."""
    for alternative in _alternatives(declared):
        match get_origin(alternative), get_args(alternative):
            case (origin, (element,)) if origin is list:
                return element
            case (origin, (element, last)) if origin is tuple and last is Ellipsis:
                return element
            case (origin, (_, element)) if origin is dict:
                return element
    return Any
