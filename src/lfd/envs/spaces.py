"""Observation and action spaces, reduced to the forms that the rest of the library handles."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.errors import UserError

Array = NDArray[Any]


@final
class Cells(gym.spaces.Box):
    """A grid of cells [width, height, n] uint8, each cell n indices, as object, color and state in MiniGrid.

    A class of its own, as no shape tells a grid of cells from a small picture.
    """

    def __init__(self, sides: tuple[int, int], sizes: Sequence[int]) -> None:
        """`sides` are width and height; `sizes` [n] are the numbers of objects, colors, …, at most 256 of each."""
        self.sizes = tuple(int(size) for size in sizes)
        shape = (*sides, len(self.sizes))
        super().__init__(0, np.broadcast_to(np.array(self.sizes) - 1, shape).astype(np.uint8), shape, np.uint8)

    def __repr__(self) -> str:
        return f"Cells({self.shape}, {self.sizes})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cells) and super().__eq__(other)


@final
class Indices(gym.spaces.Box):
    """Several indices [*shape] int64, the observation space that Gymnasium calls MultiDiscrete.

    A Box, as `Cells` and `Words` are, as it is stored and checked as one; networks read each index as one-hot.
    """

    def __init__(self, sizes: Any) -> None:
        """`sizes` [*shape] is the number of values of each index, which start at 0."""
        self.sizes = np.asarray(sizes, np.int64)
        super().__init__(np.zeros_like(self.sizes), self.sizes - 1, dtype=np.int64)

    def __repr__(self) -> str:
        return f"Indices({self.sizes.tolist()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Indices) and super().__eq__(other)


@final
class Words(gym.spaces.Box):
    """A text as the ids of its words, [length] uint8.

    0 is padding, the i-th word of the vocabulary has the id i + 1, any other word the id after the last.
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        """`words` is the vocabulary, at most 254 words; `length` is the maximum number of words of a text."""
        self.words = tuple(words)
        if len(self.words) > 254:
            raise ValueError(f"expected at most 254 words, got {len(self.words)}")
        self._ids = {word: number for number, word in enumerate(self.words, 1)}
        super().__init__(0, len(self.words) + 1, (length,), np.uint8)

    def __repr__(self) -> str:
        return f"Words({len(self.words)} known, at most {self.shape[0]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Words) and self.words == other.words and super().__eq__(other)

    def encode(self, text: str) -> NDArray[np.uint8]:
        """The ids [length] of a text's words, without case and punctuation. Raises UserError for too many words."""
        words = re.findall("[a-z]+", text.lower())
        if len(words) > self.shape[0]:
            raise UserError(
                f"mission {text!r}: expected at most {self.shape[0]} words, got {len(words)}; set a larger "
                "env.mission_length"
            )
        ids = np.zeros(self.shape[0], np.uint8)
        ids[: len(words)] = [self._ids.get(word, len(self.words) + 1) for word in words]
        return ids

    def decode(self, ids: Array) -> str:
        """The words of ids [length], separated by spaces; "?" for a word that is not in the vocabulary."""
        return " ".join((*self.words, "?")[number - 1] for number in ids.tolist() if number)


def mission_of(space: gym.Space[Any], obs: Any) -> str | None:
    """The text in an observation of a Dict space; None if the space has no `Words`."""
    for key, part in space.items() if isinstance(space, gym.spaces.Dict) else ():
        if isinstance(part, Words):
            return part.decode(obs[key])
    return None


def refuse_other_words(what: str, expected: gym.Space[Any], got: gym.Space[Any], way_out: str) -> None:
    """Raises UserError, which begins with `what`, if texts of two observation spaces have different vocabularies."""
    theirs = dict(got.items()) if isinstance(got, gym.spaces.Dict) else {}
    for key, words in expected.items() if isinstance(expected, gym.spaces.Dict) else ():
        other = theirs.get(key)
        if isinstance(words, Words) and isinstance(other, Words) and words.words != other.words:
            changed = sorted(set(words.words) ^ set(other.words))
            raise UserError(
                f"{what}: {key}: expected ids of the environment's {len(words.words)} words, got those of "
                f"{len(other.words)} words (different: {', '.join(changed[:5]) or 'their order'}); {way_out}"
            )


class Spaces(NamedTuple):
    """The two spaces of one environment.

    `observation` is a Box, a Discrete or a flat Dict of these; `action` is a Discrete or a one-dimensional Box.
    Floats are float32 and Discrete spaces start at 0. `Cells`, `Indices` and `Words` are Boxes of indices.
    """

    observation: gym.Space[Any]
    action: gym.Space[Any]

    @property
    def actions(self) -> str:
        """ "discrete" or "continuous"."""
        return "discrete" if isinstance(self.action, gym.spaces.Discrete) else "continuous"

    @property
    def action_size(self) -> int:
        """Number of discrete actions, or of dimensions of continuous ones."""
        return (
            int(self.action.n) if isinstance(self.action, gym.spaces.Discrete) else math.prod(self.action.shape or ())
        )

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
    """The spaces of the environment `name`, simplified: dicts and tuples flattened, float32, actions one-dimensional.

    The parts of a tuple have the names "0", "1", ….

    Raises UserError for a space that cannot be simplified.
    """
    if isinstance(observation, gym.spaces.Dict | gym.spaces.Tuple):
        parts = dict(_flatten_space(observation, (), name))
        return Spaces(gym.spaces.Dict(parts), _simplify_action(action, name))
    return Spaces(_simplify_observation(observation, f"{name}: the observation"), _simplify_action(action, name))


def flatten_observation(observation: Any, known: Container[str] = (), prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """Flattens nested dicts and tuples; the keys are those of the space that `simplify_spaces` returns.

    A value of a `known` key is not flattened: an environment may return the numbers of a Box as a tuple.
    """
    flat: dict[str, Any] = {}
    for part, value in observation.items() if isinstance(observation, Mapping) else enumerate(observation):
        path = (*prefix, str(part))
        key = _join_path(path)
        is_nested = isinstance(value, Mapping | tuple) and key not in known
        flat |= flatten_observation(value, known, path) if is_nested else {key: value}
    return flat


def _join_path(path: tuple[str, ...]) -> str:
    # the key names network modules, columns and files, each of which forbids other characters
    return re.sub(r"\W", "_", "_".join(path))


def _flatten_space(
    space: gym.spaces.Dict | gym.spaces.Tuple[Any], prefix: tuple[str, ...], name: str
) -> list[tuple[str, gym.Space[Any]]]:
    leaves: list[tuple[str, gym.Space[Any]]] = []
    for key, part in space.spaces.items() if isinstance(space, gym.spaces.Dict) else enumerate(space.spaces):
        path = (*prefix, str(key))
        if isinstance(part, gym.spaces.Dict | gym.spaces.Tuple):
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
    if isinstance(space, Cells | Indices | Words):
        return space
    if isinstance(space, gym.spaces.Box):
        if 0 in space.shape:
            raise UserError(f"{name}: expected one number or more, got {space}; change it with a gymnasium wrapper")
        return _simplify_box(space, space.shape or (1,))
    if _is_discrete_from_zero(space):
        return gym.spaces.Discrete(int(space.n))
    if isinstance(space, gym.spaces.MultiDiscrete) and not space.start.any():
        return Indices(space.nvec)
    raise UserError(
        f"{name}: expected Box, Discrete or MultiDiscrete from 0, or a Dict or Tuple of these, got "
        f"{_space_name(space)}; convert it with a gymnasium wrapper"
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
    has_start = isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete)
    return str(space) if has_start else type(space).__name__


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
    if isinstance(space, Cells):
        return {"cells": list(space.shape[:2]), "sizes": list(space.sizes)}
    if isinstance(space, Indices):
        return {"indices": space.sizes.tolist()}
    if isinstance(space, Words):
        return {"words": list(space.words), "length": space.shape[0]}
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
    if "cells" in description:
        width, height = description["cells"]
        return Cells((width, height), description["sizes"])
    if "indices" in description:
        return Indices(description["indices"])
    if "words" in description:
        return Words(description["words"], description["length"])
    shape, dtype = tuple(description["box"]), np.dtype(description["dtype"])
    low, high = (
        np.broadcast_to(np.asarray(bound).astype(dtype).reshape(-1), np.prod(shape, dtype=int)).reshape(shape)
        for bound in (description["low"], description["high"])
    )
    return gym.spaces.Box(low, high, dtype=dtype.type)
