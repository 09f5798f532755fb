"""Values of a configuration: whether each is of the kind and in the range that its place needs, and who reads it."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationValidationError, OmegaConfBaseException

from lfd.errors import Refused, nearest
from lfd.refusals import sentence

# Smallest and largest value of fields by name, whatever has them; of all others `_WIDEST` holds.
_LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1), "threads": (0, 1_024), "jobs": (1, 1_024), "members": (1, 1_000), "num_envs": (1, 10_000),
    "batch": (1, 10**9), "hidden": (0, 10**9), "capacity": (1, 10**12), "lr": (0, 1_000), "eps": (0, 1),
    "weight_decay": (0, 1_000), "sigma": (0, 100), "success_rate": (0, 1), "checkpoints": (0, 10_000),
}  # fmt: skip
_WIDEST = (-1e15, 1e15)
_LIMITS |= dict.fromkeys(("steps", "warmup"), _WIDEST)  # of a schedule, whatever it is of


def check_numbers(value: Any, here: str = "", limits: tuple[float, float] = _WIDEST) -> None:
    """Refuse numbers anywhere in a tree of parts that are infinite, no number at all, or out of all proportion."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = limits
        if not low <= value <= high:  # as NaN is not
            bounds = "a finite number below 1e15" if limits == _WIDEST else f"a number from {low:,} to {high:,}"
            raise Refused(f"{here} is {str(value)[:30]}; {bounds} is expected")
    for name, part in _parts(value):
        if name != "kwargs":  # they go to other people's code, which knows what it wants
            check_numbers(part, f"{here}.{name}".lstrip("."), _LIMITS.get(name, limits))


def refuse_strays(value: Any, here: str = "") -> None:
    """Refuse keys that a component does not have: `+` and other people's yaml can add them, and nothing reads them."""
    if dataclasses.is_dataclass(value):
        known = {field.name for field in dataclasses.fields(value)}
        for name in vars(value).keys() - known:
            raise Refused(f"{here}.{name}: {here} has no {name!r}; {nearest(name, known)}")
    for name, part in _parts(value):
        refuse_strays(part, f"{here}.{name}".lstrip("."))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif isinstance(value, list):
        yield from ((str(index), part) for index, part in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from vars(value).items()


def check_kinds(cfg: DictConfig, root: Mapping[str, Any]) -> dict[str, str]:
    """Refuse a plain value in the place of a part, and interpolations that end nowhere or at something else.

    `root` says what stands at the root. Returns what came from the environment, value -> interpolation: it may be a
    secret.
    """
    for name, kind in root.items():
        node = cfg._get_node(name)
        is_none = name == "env" and cfg[name] is None
        if isinstance(kind, type) and not isinstance(node, DictConfig) and not is_none:
            raise Refused(f"{name}: a single value cannot stand here; set one of the keys below it")
    return dict(_from_environment(cfg, ""))


def _from_environment(node: Any, here: str) -> Iterator[tuple[str, str]]:
    keys: Any = range(len(node)) if isinstance(node, ListConfig) else node.keys()
    for key in keys:
        child, where = node._get_node(key), f"{here}.{key}".lstrip(".")
        if child is None or isinstance(child, list) or child._is_missing() or child._is_none():
            continue
        if child._is_interpolation():
            value = _resolved(child, where)
            if "oc.env" in str(child._value()) and isinstance(value, str):
                yield value, str(child._value())
        elif isinstance(child, Container):
            yield from _from_environment(child, where)


def _resolved(node: Any, where: str) -> Any:
    """What an interpolation stands for, which must be of the kind of its place. It is named, but never shown."""
    raw, kind = node._value(), node._metadata.ref_type
    try:
        found = node._dereference_node()
    except InterpolationValidationError as error:
        raise Refused(f"{where}={raw}: that is not of the kind that is expected there; give a value") from error
    except OmegaConfBaseException as error:
        told = str(sentence(error))
        raise Refused(told if told.startswith(where) else f"{where}={raw}: {told}") from error
    except RecursionError as error:
        raise Refused(f"{where}={raw}: it refers to itself; give a value") from error
    if isinstance(node, Container):
        part = dataclasses.is_dataclass(kind)
        there = found._metadata.object_type if isinstance(found, type(node)) else None
        if there is None or not issubclass(there, kind if part else dict | list):
            wanted = kind.__name__ if part else "a list" if isinstance(node, ListConfig) else "a table"
            raise Refused(f"{where}={raw}: {wanted} is expected there, and that is something else")
    return found._value()


def hidden(text: str, secrets: Mapping[str, str]) -> str:
    """A text with values that came from the environment as the interpolations that brought them."""
    for value, raw in secrets.items():
        text = text.replace(value, raw) if len(value) > 3 else text
    return text


def references(cfg: DictConfig) -> dict[str, set[str]]:
    """Name at the root -> the others that interpolations below it speak of.

    Without those that have nothing below them: a group that only chooses, as `actions` does, leaves that.
    """
    roots = {str(name) for name in cfg if cfg._get_node(name) != {}}

    def words(node: Any) -> Iterator[str]:
        if node is None or node._is_missing() or node._is_none():
            return
        if node._is_interpolation():
            yield from re.findall(r"\w+", str(node._value()))
        elif isinstance(node, ListConfig):
            yield from (word for index in range(len(node)) for word in words(node._get_node(index)))
        elif isinstance(node, DictConfig):
            yield from (word for key in node.keys() for word in words(node._get_node(key)))  # noqa: SIM118

    return {name: roots & set(words(cfg._get_node(name))) for name in roots}


def resolved_yaml(cfg: DictConfig, options: Mapping[str, str], secrets: Mapping[str, str]) -> str:
    """The configuration as YAML, the names of the chosen options first; what came from the environment is not in it."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shown(part) for key, part in value.items()}
        if isinstance(value, list):
            return [shown(part) for part in value]
        return hidden(value, secrets) if isinstance(value, str) else value

    content = shown(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    return OmegaConf.to_yaml(OmegaConf.create({"options": dict(options)} | content))
