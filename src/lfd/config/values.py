"""Checks of types and ranges of a configuration's values, and the references between its keys."""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationValidationError, OmegaConfBaseException

from lfd.config.errors import user_message
from lfd.config.loader import child_node, declared_type, interpolation, is_empty, object_type, plain_value, resolved
from lfd.config.renamed import check_renamed
from lfd.errors import UserError, suggest

# Smallest and largest value of a field by its name, in any class; all other numbers are within `_WIDEST`.
_LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1), "threads": (0, 1_024), "jobs": (1, 1_024), "members": (1, 1_000), "num_envs": (1, 10_000),
    "batch_size": (1, 10**9), "hidden": (0, 10**9), "buffer_size": (1, 10**12), "lr": (0, 1_000), "eps": (0, 1),
    "weight_decay": (0, 1_000), "action_noise": (0, 100), "success_rate": (0, 1), "snapshots": (0, 10_000),
}  # fmt: skip
_WIDEST = (-1e15, 1e15)
_LIMITS |= dict.fromkeys(("over", "warmup"), _WIDEST)  # a schedule's steps are not limited by its field's range


def check_numbers(value: Any, here: str = "", limits: tuple[float, float] = _WIDEST) -> None:
    """Refuses numbers in a tree of parts that are NaN, infinite or outside the range of their field."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = limits
        if not low <= value <= high:  # false for NaN
            bounds = "a finite number below 1e15" if limits == _WIDEST else f"a number from {low:,} to {high:,}"
            raise UserError(f"{here}: expected {bounds}, got {str(value)[:30]}")
    for name, part in _parts(value):
        if name != "kwargs":  # arguments of foreign code, which checks them itself
            check_numbers(part, f"{here}.{name}".lstrip("."), _LIMITS.get(name, limits))


def refuse_strays(value: Any, here: str = "") -> None:
    """Refuses keys that a part has no field for; `+` and a user's yaml can add them."""
    if dataclasses.is_dataclass(value):
        known = {field.name for field in dataclasses.fields(value)}
        for name in vars(value).keys() - known:
            check_renamed([kind.__name__ for kind in inspect.getmro(type(value))], name, f"{here}.")
            raise UserError(f"{here}.{name}: {here} has no {name!r}; {suggest(name, known)}")
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
    """Refuses a single value in place of a part, and interpolations that lead to nothing or to another type.

    `root` gives the types of keys at the root. Returns values from environment variables, which may be secrets, with
    their interpolations: value -> interpolation.
    """
    for name, kind in root.items():
        is_none = name == "env" and cfg[name] is None
        if isinstance(kind, type) and not isinstance(child_node(cfg, name), DictConfig) and not is_none:
            raise UserError(f"{name}: expected a mapping; set one of its keys")
    return dict(_values_of_environment(cfg, ""))


def _values_of_environment(owner: Any, parent: str) -> Iterator[tuple[str, str]]:
    keys: Any = range(len(owner)) if isinstance(owner, ListConfig) else owner.keys()
    for key in keys:
        node, path = child_node(owner, key), f"{parent}.{key}".lstrip(".")
        if is_empty(node):
            continue
        if raw := interpolation(node):
            value = _resolved_value(node, path)
            if "oc.env" in raw and isinstance(value, str):
                yield value, raw
        elif isinstance(node, Container):
            yield from _values_of_environment(node, path)


def _resolved_value(node: Any, path: str) -> Any:
    """The value of an interpolation at `path`, which has to fit the type there; messages do not contain the value."""
    raw, expected = interpolation(node), _type_name(node)
    try:
        target = resolved(node)
    except InterpolationValidationError as error:
        raise UserError(f"{path}: expected {expected}, got {raw} of another type; set a value") from error
    except OmegaConfBaseException as error:
        message = str(user_message(error))
        raise UserError(message if message.startswith(path) else f"{path}={raw}: {message}") from error
    except RecursionError as error:
        raise UserError(f"{path}={raw}: the interpolation refers to itself; set a value") from error
    if isinstance(node, Container):
        declared = declared_type(node)
        allowed: Any = declared if dataclasses.is_dataclass(declared) else dict | list
        kind = object_type(target) if isinstance(target, type(node)) else None
        if kind is None or not issubclass(kind, allowed):
            raise UserError(f"{path}: expected {expected}, got {raw} of another type; leave it out")
    return plain_value(target)


def _type_name(node: Any) -> str:
    declared = declared_type(node)
    if isinstance(node, Container) and not dataclasses.is_dataclass(declared):
        return "a list" if isinstance(node, ListConfig) else "a mapping"
    return str(getattr(declared, "__name__", declared))


def hidden(text: str, secrets: Mapping[str, str]) -> str:
    """The text with values of environment variables replaced by their interpolations."""
    for value, raw in secrets.items():
        text = text.replace(value, raw) if len(value) > 3 else text
    return text


def references(cfg: DictConfig) -> dict[str, set[str]]:
    """Names at the root -> the dotted keys that interpolations below them contain.

    Empty names are left out: groups that only choose other options, as `actions`, set nothing.
    """
    roots = {str(name) for name in cfg if child_node(cfg, name) != {}}

    def words(node: Any) -> Iterator[str]:
        if is_empty(node):
            return
        if raw := interpolation(node):
            yield from re.findall(r"\w[\w.]*", raw)
        elif isinstance(node, ListConfig):
            yield from (word for index in range(len(node)) for word in words(child_node(node, index)))
        elif isinstance(node, DictConfig):
            yield from (word for key in node.keys() for word in words(child_node(node, key)))  # noqa: SIM118

    found = {name: set(words(child_node(cfg, name))) for name in roots}
    return {name: {key for key in keys if key.partition(".")[0] in roots} for name, keys in found.items()}


def resolved_yaml(cfg: DictConfig, options: Mapping[str, str], secrets: Mapping[str, str]) -> str:
    """The resolved configuration as YAML, after the chosen options; interpolations stand for secrets."""

    def without_secrets(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_secrets(part) for key, part in value.items()}
        if isinstance(value, list):
            return [without_secrets(part) for part in value]
        return hidden(value, secrets) if isinstance(value, str) else value

    content = without_secrets(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    return OmegaConf.to_yaml(OmegaConf.create({"options": dict(options)} | content))
