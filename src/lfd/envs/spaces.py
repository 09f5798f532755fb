"""What an environment shows and takes, in the few forms that the rest of the library handles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.errors import Refused

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
        """The spaces that `to_json` described. Raises Refused for anything else."""
        try:
            return cls(_from_json(description["observation"]), _from_json(description["action"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(
                f"the description of an environment's spaces is damaged ({error!r}): expected what lfd wrote; "
                "make the dataset or policy again"
            ) from error


def simplified(observation: gym.Space[Any], action: gym.Space[Any], name: str) -> Spaces:
    """The spaces of the environment `name` in our forms: dicts flattened, float32, actions one-dimensional.

    Raises Refused for what has no such form.
    """
    if isinstance(observation, gym.spaces.Dict):
        parts = dict(_leaves(observation, (), name))
        return Spaces(gym.spaces.Dict(parts), _action(action, name))
    return Spaces(_observation(observation, f"{name}: the observation"), _action(action, name))


def flatten(observation: Any, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """A nested dict observation as a flat one, under the keys that `simplified` gives."""
    flat: dict[str, Any] = {}
    for key, value in observation.items():
        path = (*prefix, str(key))
        flat |= flatten(value, path) if isinstance(value, Mapping) else {_joined(path): value}
    return flat


def _joined(path: tuple[str, ...]) -> str:
    # names of network modules, columns and files are made of it, and they forbid different characters
    return re.sub(r"\W", "_", "_".join(path))


def _leaves(space: gym.spaces.Dict, prefix: tuple[str, ...], name: str) -> list[tuple[str, gym.Space[Any]]]:
    leaves: list[tuple[str, gym.Space[Any]]] = []
    for key, part in space.spaces.items():
        path = (*prefix, str(key))
        if isinstance(part, gym.spaces.Dict):
            leaves += _leaves(part, path, name)
        else:
            leaves.append((_joined(path), _observation(part, f"{name}: observation {'.'.join(path)!r}")))
    keys = [key for key, _ in leaves]
    if len(set(keys)) < len(keys):
        raise Refused(f"{name}: two observations would be called the same among {keys}: rename one with a wrapper")
    return leaves


def _observation(space: gym.Space[Any], what: str) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Box):
        if 0 in space.shape:
            raise Refused(f"{what} is {space}, which holds no number: show at least one, by a gymnasium wrapper")
        return _box(space, space.shape or (1,))
    if _plain_discrete(space):
        return gym.spaces.Discrete(int(space.n))
    raise Refused(
        f"{what} is a {_named(space)}, which no network here reads: expected Box, Discrete from 0 or a Dict of these; "
        "convert it with a gymnasium wrapper"
    )


def _action(space: gym.Space[Any], name: str) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if 0 in space.shape or not (space.low < space.high).all():
            raise Refused(
                f"{name}: its actions are {space}, which leaves nothing to choose: expected one number or more, the "
                "low bound of each below its high one; leave the others out with a gymnasium wrapper"
            )
        return _box(space, (int(np.prod(space.shape)),))
    if _plain_discrete(space):
        return gym.spaces.Discrete(int(space.n))
    raise Refused(
        f"{name}: its actions are a {_named(space)}, which no algorithm here takes: expected Discrete from 0 or a Box "
        "of floats; convert them with a gymnasium wrapper"
    )


def _plain_discrete(space: gym.Space[Any]) -> TypeGuard[gym.spaces.Discrete]:
    return isinstance(space, gym.spaces.Discrete) and space.start == 0


def _named(space: gym.Space[Any]) -> str:
    return str(space) if isinstance(space, gym.spaces.Discrete) else type(space).__name__


def _box(space: gym.spaces.Box, shape: tuple[int, ...]) -> gym.spaces.Box:
    dtype: Any = np.float32 if np.issubdtype(space.dtype, np.floating) else space.dtype
    # the float64 limits of some spaces are beyond float32: they become infinite, which is what they mean
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
    """One value where all are equal, as for pixels. JSON has no infinities: they are strings."""
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
