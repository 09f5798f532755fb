"""What environments give, in the forms that we keep, or a sentence that says what is wrong with it."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.envs.spaces import flatten
from lfd.errors import PASSING, Refused, foreign_error
from lfd.log.progress import tell_once

Array = NDArray[Any]

LARGEST = float(np.finfo(np.float32).max)  # beyond it a reward would be kept as infinite
_SLACK = 0.01  # of the range of a float: simulators overstep bounds by less without meaning anything by it


@final
class Unfit(Exception):
    """What an environment gave cannot be taken; `row` is its place where several were asked."""

    def __init__(self, text: str, row: int | None = None) -> None:
        super().__init__(text)
        self.row = row


def refusal(where: str, error: BaseException) -> BaseException:
    """The line for what went wrong in an environment; `where` names it and what it was doing."""
    if isinstance(error, PASSING):
        return error
    if isinstance(error, Unfit):
        return Refused(f"{where}: {error}")
    hint = ""
    if isinstance(error, ValueError | TypeError) and "unpack" in str(error):
        hint = "step gives (observation, reward, terminated, truncated, info), as of Gymnasium 0.26"
    return foreign_error(where, error, hint)


def number(value: Any) -> float:
    """A reward as a float: a number, or an array or list of one. Raises Unfit, for NaN and infinity too."""
    found = _single(value, "the reward", "a number")
    if not -LARGEST <= found <= LARGEST:
        raise Unfit(
            f"the reward is {_shown(value)}, which is no finite number of float32; mend it in the environment, or in a "
            "wrapper"
        )
    return found


def flag(value: Any, name: str) -> bool:
    """`terminated` or `truncated` as a bool: a truth value, 0 or 1, or an array or list of one. Raises Unfit."""
    found = _single(value, name, expected := "True or False")
    if found not in (0, 1):
        raise Unfit(f"{name} is {_shown(value)}; {expected} is expected")
    return bool(found)


def success_of(info: Any) -> float | None:
    """Whether the task is done, as the environment's info tells it: 0 to 1, or None. Raises Unfit."""
    if info is None:
        return None
    if not isinstance(info, Mapping):
        raise Unfit(f"the info is {_shown(info)}; a dict is expected")
    for name in ("is_success", "success"):
        told = info.get(name)
        if told is None:
            continue
        found = _single(told, f"the info {name!r}", expected := "True, False or a share from 0 to 1")
        if not 0 <= found <= 1:
            raise Unfit(f"the info {name!r} is {_shown(told)}; {expected} is expected")
        return found
    return None


def first(answer: Any) -> Any:
    """The observation of what `reset` gave. Raises Unfit."""
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise Unfit(f"reset gives {_shown(answer)}; (observation, info) is expected, as of Gymnasium 0.26")
    return answer[0]


def _single(value: Any, name: str, expected: str) -> float:
    if isinstance(value, float | np.number | np.bool_) or (isinstance(value, int) and abs(value) < 2**1023):
        return float(value)
    if not isinstance(value, str | bytes):
        try:
            array = np.asarray(value)
        except Exception as error:  # tensors of other libraries fail in ways of their own
            raise Unfit(f"{name} is no array of numbers ({error}); {expected} is expected") from error
        if array.size == 1 and array.dtype.kind in "biuf":
            return float(array.reshape(()))
    raise Unfit(f"{name} is {_shown(value)}; {expected} is expected")


def _shown(value: Any) -> str:
    """What was given, short and on one line."""
    return " ".join(reprlib.repr(value).split())[:100]


def close_all(name: str, envs: Iterable[Any]) -> None:
    """Close them all. Raises Refused if one fails in it, unless there is an error already, which is told instead."""
    failed: BaseException | None = None
    for env in envs:
        try:
            env.close()
        except BaseException as error:
            failed = failed or error
    if failed is not None and sys.exception() is None:
        raise refusal(f"environment {name}: close", failed) from failed


@final
class Observations:
    """Brings observations into the form of a space. The arrays that it gives are new in every call."""

    def __init__(self, space: gym.Space[Any], name: str) -> None:
        """`name` is the environment's."""
        parts = space.spaces if isinstance(space, gym.spaces.Dict) else {"": space}
        self._parts = {
            key: _Part(part, f"the observation {key!r}" if key else "the observation", name)
            for key, part in parts.items()
        }
        self._is_dict, self._name = isinstance(space, gym.spaces.Dict), name

    def stack(self, rows: Sequence[Any], look: bool = False) -> Any:
        """[N, ...] of N observations; with `look`, floats far beyond their bounds are told of. Raises Unfit."""
        if not self._is_dict:
            return self._parts[""].stack(rows, look)
        flat = [self._flat(row, index) for index, row in enumerate(rows)]
        return {key: part.stack([row[key] for row in flat], look) for key, part in self._parts.items()}

    def batch(self, given: Any, count: int, look: bool = False) -> Any:
        """[N, ...] of what a vector environment shows of `count` environments at once. Raises Unfit."""
        if not self._is_dict:
            return self._parts[""].batch(given, count, look)
        flat = self._flat(given, None)
        return {key: part.batch(flat[key], count, look) for key, part in self._parts.items()}

    def _flat(self, observation: Any, row: int | None) -> dict[str, Any]:
        if not isinstance(observation, Mapping):
            raise Unfit(f"the observation is {_shown(observation)}; its space is a Dict", row)
        flat = flatten(observation)
        missing = [key for key in self._parts if key not in flat]
        if missing:
            raise Unfit(f"the observation lacks {', '.join(missing)}, which its space has", row)
        if len(flat) > len(self._parts):
            more = ", ".join(key for key in flat if key not in self._parts)
            tell_once(f"environment {self._name}: its observations have {more}, which its space has not: left out")
        return flat


@final
class _Part:
    """One column."""

    def __init__(self, space: gym.Space[Any], name: str, env: str) -> None:
        assert isinstance(space, gym.spaces.Box | gym.spaces.Discrete)
        self._space, self._name, self._env = space, name, env
        self._shape, self._dtype = tuple(space.shape or ()), np.dtype(space.dtype or np.int64)
        low, high = (0, space.n - 1) if isinstance(space, gym.spaces.Discrete) else (space.low, space.high)
        self._low, self._high = np.asarray(low), np.asarray(high)
        self._is_float = self._dtype.kind == "f"
        if self._is_float:
            slack = _SLACK * (self._high.astype(np.float64) - self._low)
            self._low, self._high = self._low - slack, self._high + slack
        least, most = (-np.inf, np.inf) if self._is_float else _ends(self._dtype)
        self._is_free = bool((self._low <= least).all() and (self._high >= most).all())  # no value is beyond

    def stack(self, rows: Sequence[Any], look: bool) -> Array:
        shape, dtype, kind = self._shape, self._dtype, "f" if self._is_float else "-"
        for row in rows:
            if type(row) is not np.ndarray or row.shape != shape or (row.dtype != dtype and row.dtype.kind != kind):
                rows = [self._row(one, index) for index, one in enumerate(rows)]
                break
        # what is too large for float32 becomes infinite, and is told as that
        with np.errstate(over="ignore"):
            column = np.array(rows, dtype)
        self._check(column, look)
        return column

    def batch(self, given: Any, count: int, look: bool) -> Array:
        if isinstance(given, np.ndarray) and given.ndim and _long(given.shape[1:]) == _long(self._shape):
            given = given.reshape(len(given), *self._shape)
        elif not isinstance(given, Sequence | np.ndarray):
            raise Unfit(f"{self._name} is {_shown(given)}; {count} of them are expected")
        if len(given) != count:
            raise Unfit(f"{self._name} has {len(given)} rows; one of each of {count} environments is expected")
        if not isinstance(given, np.ndarray) or given.dtype != self._dtype:
            return self.stack(list(given), look)
        column = given.copy()  # some environments give the same array again and again
        self._check(column, look)
        return column

    def _row(self, given: Any, row: int) -> Array:
        try:
            value = np.asarray(given)
        except Exception as error:  # lists of several lengths, tensors of other libraries
            raise Unfit(f"{self._name} is no array of numbers ({error}); {self._expected}", row) from error
        if value.dtype.kind not in "biuf":
            raise Unfit(f"{self._name} is {_shown(given)}; {self._expected}", row)
        if value.shape != self._shape:
            if _long(value.shape) != _long(self._shape):
                raise Unfit(f"{self._name} has the shape {list(value.shape)}; {self._expected}", row)
            value = value.reshape(self._shape)
        with np.errstate(all="ignore"):
            kept = value.astype(self._dtype)
        if not self._is_float and not np.array_equal(kept, value):
            at = int(np.flatnonzero(kept.ravel() != value.ravel())[0])
            raise Unfit(
                f"{self._name} holds {value.ravel()[at]:g} ({value.dtype}), of which {kept.ravel()[at]} would be kept; "
                f"{self._expected}",
                row,
            )
        return kept

    @property
    def _expected(self) -> str:
        space = self._space
        kind = (
            f"Discrete({space.n})" if isinstance(space, gym.spaces.Discrete) else f"{list(self._shape)} {space.dtype}"
        )
        return f"its space says {kind}: mend one of the two in the environment, or in a gymnasium wrapper"

    def _check(self, column: Array, look: bool) -> None:
        if self._is_float:
            # the bytes of an array of bools are looked through in a third of the time that `all` takes
            if 0 in np.isfinite(column).tobytes():
                self._not_finite(column)
            if look and not self._is_free:
                self._told_beyond(column)
        elif not self._is_free:
            wrong = (column < self._low) | (column > self._high)
            if 1 in wrong.tobytes():
                row = int(np.flatnonzero(wrong.reshape(len(column), -1).any(1))[0])
                value = column[row][wrong[row]].flat[0]
                low, high = (np.broadcast_to(one, self._shape)[wrong[row]].flat[0] for one in (self._low, self._high))
                raise Unfit(f"{self._name} holds {value}, which is not from {low} to {high}; {self._expected}", row)

    def _not_finite(self, column: Array) -> None:
        rows = np.isfinite(column).reshape(len(column), -1)
        row = int(np.flatnonzero(~rows.all(1))[0])
        value = column[row].ravel()[int(rows[row].argmin())]
        raise Unfit(
            f"{self._name} holds {value}, which is no finite number of float32; mend it in the environment, or in a "
            "wrapper",
            row,
        )

    def _told_beyond(self, column: Array) -> None:
        beyond = (column < self._low) | (column > self._high)
        if beyond.any():
            value = column[beyond].flat[0]
            tell_once(
                f"environment {self._env}: {self._name} holds {value:g}, beyond the bounds of its space; kept as it is",
                f"{self._env} {self._name} beyond",
            )


def _long(shape: Sequence[int]) -> list[int]:
    """A shape without its axes of one: numbers go from one shape to another of equal such axes in one way alone."""
    return [axis for axis in shape if axis != 1]


def _ends(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the largest value of a type of integers, or of bools."""
    return (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
