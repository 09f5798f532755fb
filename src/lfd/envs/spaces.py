"""Observation and action spaces, reduced to the forms that the rest of the library handles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.errors import UserError

Array = NDArray[Any]


class Spaces(NamedTuple):
    """The two spaces of one environment.

    `observation` is a Box, a Discrete or a flat Dict of these; `action` is a Discrete or a one-dimensional Box.
    Floats are float32 and Discrete spaces start at 0.
    """

    observation: gym.Space[Any]
    action: gym.Space[Any]

    @property
    def actions(self) -> str:
        """ "discrete" or "continuous"."""
        return "discrete" if isinstance(self.action, gym.spaces.Discrete) else "continuous"

    def to_json(self) -> dict[str, Any]:
        """The spaces as plain JSON, read back by `from_json`."""
        return {"observation": _to_json(self.observation), "action": _to_json(self.action)}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Spaces:
        """The spaces that `to_json` described. Raises UserError for anything else."""
        try:
            return cls(_from_json(description["observation"]), _from_json(description["action"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"spaces: expected a description that lfd wrote, got a damaged one ({error!r}); make the dataset or "
                "policy again"
            ) from error


def simplify_spaces(observation: gym.Space[Any], action: gym.Space[Any], name: str) -> Spaces:
    """The spaces of the environment `name`, simplified: dicts flattened, float32, actions one-dimensional.

    Raises UserError for a space that cannot be simplified.
    """
    if isinstance(observation, gym.spaces.Dict):
        parts = dict(_flatten_space(observation, (), name))
        return Spaces(gym.spaces.Dict(parts), _simplify_action(action, name))
    return Spaces(_simplify_observation(observation, f"{name}: the observation"), _simplify_action(action, name))


def flatten_dict(observation: Any, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """Flattens a nested dict observation; its keys are those of the space that `simplify_spaces` returns."""
    flat: dict[str, Any] = {}
    for key, value in observation.items():
        path = (*prefix, str(key))
        flat |= flatten_dict(value, path) if isinstance(value, Mapping) else {_join_path(path): value}
    return flat


def _join_path(path: tuple[str, ...]) -> str:
    # the key names network modules, columns and files, each of which forbids other characters
    return re.sub(r"\W", "_", "_".join(path))


def _flatten_space(space: gym.spaces.Dict, prefix: tuple[str, ...], name: str) -> list[tuple[str, gym.Space[Any]]]:
    leaves: list[tuple[str, gym.Space[Any]]] = []
    for key, part in space.spaces.items():
        path = (*prefix, str(key))
        if isinstance(part, gym.spaces.Dict):
            leaves += _flatten_space(part, path, name)
        else:
            leaves.append((_join_path(path), _simplify_observation(part, f"{name}: observation {'.'.join(path)!r}")))
    keys = [key for key, _ in leaves]
    if len(set(keys)) < len(keys):
        raise UserError(
            f"{name}: expected observations of different names, got {keys}; rename one with a gymnasium wrapper"
        )
    return leaves


def _simplify_observation(space: gym.Space[Any], name: str) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Box):
        if 0 in space.shape:
            raise UserError(f"{name}: expected one number or more, got {space}; change it with a gymnasium wrapper")
        return _simplify_box(space, space.shape or (1,))
    if _is_discrete_from_zero(space):
        return gym.spaces.Discrete(int(space.n))
    raise UserError(
        f"{name}: expected Box, Discrete from 0 or a Dict of these, got {_space_name(space)}; convert it with a "
        "gymnasium wrapper"
    )


def _simplify_action(space: gym.Space[Any], name: str) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if 0 in space.shape or not (space.low < space.high).all():
            raise UserError(
                f"{name}: the actions: expected one number or more, the low bound of each below its high bound, got "
                f"{space}; leave the others out with a gymnasium wrapper"
            )
        return _simplify_box(space, (int(np.prod(space.shape)),))
    if _is_discrete_from_zero(space):
        return gym.spaces.Discrete(int(space.n))
    raise UserError(
        f"{name}: the actions: expected Discrete from 0 or a Box of floats, got {_space_name(space)}; convert them "
        "with a gymnasium wrapper"
    )


def _is_discrete_from_zero(space: gym.Space[Any]) -> TypeGuard[gym.spaces.Discrete]:
    return isinstance(space, gym.spaces.Discrete) and space.start == 0


def _space_name(space: gym.Space[Any]) -> str:
    return str(space) if isinstance(space, gym.spaces.Discrete) else type(space).__name__


def _simplify_box(space: gym.spaces.Box, shape: tuple[int, ...]) -> gym.spaces.Box:
    dtype: Any = np.float32 if np.issubdtype(space.dtype, np.floating) else space.dtype
    # float64 limits beyond float32 become infinite, which is what these spaces mean by them
    with np.errstate(over="ignore"):
        low, high = space.low.reshape(shape).astype(dtype), space.high.reshape(shape).astype(dtype)
    return gym.spaces.Box(low, high, dtype=dtype)


def _to_json(space: gym.Space[Any]) -> dict[str, Any]:
    if isinstance(space, gym.spaces.Dict):
        return {"dict": {key: _to_json(part) for key, part in space.spaces.items()}}
    if isinstance(space, gym.spaces.Discrete):
        return {"discrete": int(space.n)}
    assert isinstance(space, gym.spaces.Box)
    return {
        "box": list(space.shape),
        "dtype": str(space.dtype),
        "low": _bound_to_json(space.low),
        "high": _bound_to_json(space.high),
    }


def _bound_to_json(bound: Array) -> Any:
    """One value if all are equal, as for pixels, else a list. Infinities are strings, as JSON has none."""
    values = [value if np.isfinite(value) else str(value) for value in bound.ravel().tolist()]
    return values[0] if len(set(values)) == 1 else values


def _from_json(description: Mapping[str, Any]) -> gym.Space[Any]:
    if "dict" in description:
        return gym.spaces.Dict({key: _from_json(part) for key, part in description["dict"].items()})
    if "discrete" in description:
        return gym.spaces.Discrete(description["discrete"])
    shape, dtype = tuple(description["box"]), np.dtype(description["dtype"])
    low, high = (
        np.broadcast_to(np.asarray(bound).astype(dtype).reshape(-1), np.prod(shape, dtype=int)).reshape(shape)
        for bound in (description["low"], description["high"])
    )
    return gym.spaces.Box(low, high, dtype=dtype.type)
