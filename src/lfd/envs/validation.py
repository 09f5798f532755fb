"""Checks what environments return and converts it to the arrays that lfd uses."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np

from lfd.envs.spaces import Array, flatten_observation
from lfd.errors import PASS_THROUGH, UserError, external_error
from lfd.log.progress import print_message_once

MAX_REWARD = float(np.finfo(np.float32).max)  # a larger reward would become infinite in float32
_BOUNDS_TOLERANCE = 0.01  # share of a float's range: simulators overstep their bounds by less, harmlessly
_FIX_ENV = "fix it in the environment or in a gymnasium wrapper"


@final
class InvalidValue(Exception):
    """An environment returned a value that cannot be used; `row` is the environment's index among several."""

    def __init__(self, text: str, row: int | None = None) -> None:
        super().__init__(text)
        self.row = row


def env_error(location: str, error: BaseException) -> BaseException:
    """The one-line error for a failure in an environment; `location` names the environment and the call."""
    if isinstance(error, PASS_THROUGH):
        return error
    if isinstance(error, InvalidValue):
        return UserError(f"{location}: {error}")
    hint = ""
    if isinstance(error, ValueError | TypeError) and "unpack" in str(error):
        hint = "step returns (observation, reward, terminated, truncated, info) since Gymnasium 0.26"
    return external_error(location, error, hint)


def check_reward(value: Any) -> float:
    """A reward as a float: a number, or an array or list of one. Raises InvalidValue, for NaN and infinity too."""
    reward = _to_scalar(value, "reward", "a number")
    if not -MAX_REWARD <= reward <= MAX_REWARD:
        raise InvalidValue(f"reward: expected a finite float32, got {_short_repr(value)}; {_FIX_ENV}")
    return reward


def check_flag(value: Any, name: str) -> bool:
    """`terminated` or `truncated` as a bool: a bool, 0 or 1, or an array or list of one. Raises InvalidValue."""
    flag = _to_scalar(value, name, expected := "True or False")
    if flag not in (0, 1):
        raise InvalidValue(f"{name}: expected {expected}, got {_short_repr(value)}")
    return bool(flag)


def success_from_info(info: Any) -> float | None:
    """Success of the task from 0 to 1, from an environment's info; None if not reported. Raises InvalidValue."""
    if info is None:
        return None
    if not isinstance(info, Mapping):
        raise InvalidValue(f"info: expected a dict, got {_short_repr(info)}")
    for key in ("is_success", "success"):
        value = info.get(key)
        if value is None:
            continue
        success = _to_scalar(value, f"info[{key!r}]", expected := "True, False or a share from 0 to 1")
        if not 0 <= success <= 1:
            raise InvalidValue(f"info[{key!r}]: expected {expected}, got {_short_repr(value)}")
        return success
    return None


def reset_obs(result: Any) -> Any:
    """The observation of a result of `reset`. Raises InvalidValue."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise InvalidValue(f"reset: expected (observation, info), as since Gymnasium 0.26, got {_short_repr(result)}")
    return result[0]


def _to_scalar(value: Any, name: str, expected: str) -> float:
    if isinstance(value, float | np.number | np.bool_) or (isinstance(value, int) and abs(value) < 2**1023):
        return float(value)
    if not isinstance(value, str | bytes):
        try:
            array = np.asarray(value)
        except Exception as error:  # tensors of other libraries raise errors of their own
            raise InvalidValue(f"{name}: expected {expected}, got no array of numbers ({error})") from error
        if array.size == 1 and array.dtype.kind in "biuf":
            return float(array.reshape(()))
    raise InvalidValue(f"{name}: expected {expected}, got {_short_repr(value)}")


def _short_repr(value: Any) -> str:
    """The value's repr on one line of at most 100 characters."""
    return " ".join(reprlib.repr(value).split())[:100]


def close_all(name: str, envs: Iterable[Any]) -> None:
    """Closes all environments. Raises UserError if a `close` fails, unless another error is being handled."""
    first_error: BaseException | None = None
    for env in envs:
        try:
            env.close()
        except BaseException as error:
            first_error = first_error or error
    if first_error is not None and sys.exception() is None:
        raise env_error(f"environment {name}: close", first_error) from first_error


@final
class ObservationChecker:
    """Converts observations to the arrays of a space and checks them. The arrays are new in every call."""

    def __init__(self, space: gym.Space[Any], env_name: str) -> None:
        """`space` is a Box, a Discrete or a flat Dict of these; `env_name` is its name in messages."""
        parts = space.spaces if isinstance(space, gym.spaces.Dict) else {"": space}
        self._columns = {
            key: _Column(part, f"observation {key!r}" if key else "observation", env_name)
            for key, part in parts.items()
        }
        self._is_dict, self._env_name = isinstance(space, gym.spaces.Dict), env_name

    def stack(self, rows: Sequence[Any], check_bounds: bool = False) -> Any:
        """Stacks N observations to [N, ...]. Raises InvalidValue.

        With `check_bounds` a message says when floats lie far outside the bounds of the space.
        """
        if not self._is_dict:
            return self._columns[""].stack(rows, check_bounds)
        flat = [self._flatten(row, index) for index, row in enumerate(rows)]
        return {key: column.stack([row[key] for row in flat], check_bounds) for key, column in self._columns.items()}

    def batch(self, observation: Any, num_envs: int, check_bounds: bool = False) -> Any:
        """Converts the observation of a vector environment to [N, ...]; `check_bounds` as in `stack`.

        Raises InvalidValue.
        """
        if not self._is_dict:
            return self._columns[""].batch(observation, num_envs, check_bounds)
        flat = self._flatten(observation, None)
        return {key: column.batch(flat[key], num_envs, check_bounds) for key, column in self._columns.items()}

    def _flatten(self, observation: Any, row: int | None) -> dict[str, Any]:
        if not isinstance(observation, Mapping | tuple):
            raise InvalidValue(
                f"observation: expected a dict or a tuple, as its space is one, got {_short_repr(observation)}", row
            )
        flat = flatten_observation(observation, self._columns)
        missing = [key for key in self._columns if key not in flat]
        if missing:
            raise InvalidValue(f"observation: expected the keys of its space, but {', '.join(missing)} is missing", row)
        if len(flat) > len(self._columns):
            extra = ", ".join(key for key in flat if key not in self._columns)
            print_message_once(
                f"environment {self._env_name}: observation keys that its space does not have are ignored: {extra}"
            )
        return flat


@final
class _Column:
    """Checks one array of an observation."""

    def __init__(self, space: gym.Space[Any], name: str, env_name: str) -> None:
        assert isinstance(space, gym.spaces.Box | gym.spaces.Discrete)
        self._space, self._name, self._env_name = space, name, env_name
        self._shape, self._dtype = tuple(space.shape or ()), np.dtype(space.dtype or np.int64)
        low, high = (0, space.n - 1) if isinstance(space, gym.spaces.Discrete) else (space.low, space.high)
        self._low, self._high = np.asarray(low), np.asarray(high)
        self._is_float = self._dtype.kind == "f"
        if self._is_float:
            tolerance = _BOUNDS_TOLERANCE * (self._high.astype(np.float64) - self._low)
            self._low, self._high = self._low - tolerance, self._high + tolerance
        dtype_low, dtype_high = (-np.inf, np.inf) if self._is_float else _dtype_bounds(self._dtype)
        # True if every value of the dtype lies within the bounds
        self._is_unbounded = bool((self._low <= dtype_low).all() and (self._high >= dtype_high).all())

    def stack(self, rows: Sequence[Any], check_bounds: bool) -> Array:
        shape, dtype, kind = self._shape, self._dtype, "f" if self._is_float else "-"
        for row in rows:
            if type(row) is not np.ndarray or row.shape != shape or (row.dtype != dtype and row.dtype.kind != kind):
                rows = [self._convert_row(value, index) for index, value in enumerate(rows)]
                break
        # a value too large for float32 becomes infinite, which the check below refuses
        with np.errstate(over="ignore"):
            column = np.array(rows, dtype)
        self._check(column, check_bounds)
        return column

    def batch(self, values: Any, num_envs: int, check_bounds: bool) -> Array:
        if isinstance(values, np.ndarray) and values.ndim and _squeeze(values.shape[1:]) == _squeeze(self._shape):
            values = values.reshape(len(values), *self._shape)
        elif not isinstance(values, Sequence | np.ndarray):
            raise InvalidValue(f"{self._name}: expected {num_envs} rows, got {_short_repr(values)}")
        if len(values) != num_envs:
            raise InvalidValue(f"{self._name}: expected {num_envs} rows, got {len(values)}")
        if not isinstance(values, np.ndarray) or values.dtype != self._dtype:
            return self.stack(list(values), check_bounds)
        column = values.copy()  # some environments return the same array in every step
        self._check(column, check_bounds)
        return column

    def _convert_row(self, value: Any, row: int) -> Array:
        try:
            array = np.asarray(value)
        except Exception as error:  # lists of several lengths, tensors of other libraries
            raise InvalidValue(self._message(f"no array of numbers ({error})"), row) from error
        if array.dtype.kind not in "biuf":
            raise InvalidValue(self._message(_short_repr(value)), row)
        if array.shape != self._shape:
            if _squeeze(array.shape) != _squeeze(self._shape):
                raise InvalidValue(self._message(f"the shape {list(array.shape)}"), row)
            array = array.reshape(self._shape)
        with np.errstate(all="ignore"):
            converted = array.astype(self._dtype)
        if not self._is_float and not np.array_equal(converted, array):
            at = int(np.flatnonzero(converted.ravel() != array.ravel())[0])
            lossy = f"{array.ravel()[at]:g} ({array.dtype}), which would become {converted.ravel()[at]}"
            raise InvalidValue(self._message(lossy), row)
        return converted

    def _message(self, got: str) -> str:
        space = self._space
        kind = (
            f"Discrete({space.n})" if isinstance(space, gym.spaces.Discrete) else f"{list(self._shape)} {space.dtype}"
        )
        return (
            f"{self._name}: expected {kind}, as in its space, got {got}; change one of the two in the environment or "
            "in a gymnasium wrapper"
        )

    def _check(self, column: Array, check_bounds: bool) -> None:
        if self._is_float:
            # searching the bytes of a bool array takes a third of the time of `all`
            if 0 in np.isfinite(column).tobytes():
                self._raise_not_finite(column)
            if check_bounds and not self._is_unbounded:
                self._warn_out_of_bounds(column)
        elif not self._is_unbounded:
            outside = (column < self._low) | (column > self._high)
            if 1 in outside.tobytes():
                row = int(np.flatnonzero(outside.reshape(len(column), -1).any(1))[0])
                value = column[row][outside[row]].flat[0]
                low, high = (
                    np.broadcast_to(bound, self._shape)[outside[row]].flat[0] for bound in (self._low, self._high)
                )
                raise InvalidValue(self._message(f"{value}, which is not from {low} to {high}"), row)

    def _raise_not_finite(self, column: Array) -> None:
        is_finite = np.isfinite(column).reshape(len(column), -1)
        row = int(np.flatnonzero(~is_finite.all(1))[0])
        value = column[row].ravel()[int(is_finite[row].argmin())]
        raise InvalidValue(f"{self._name}: expected finite float32 numbers, got {value}; {_FIX_ENV}", row)

    def _warn_out_of_bounds(self, column: Array) -> None:
        outside = (column < self._low) | (column > self._high)
        if outside.any():
            value = column[outside].flat[0]
            print_message_once(
                f"environment {self._env_name}: {self._name} holds {value:g}, outside its space's bounds; it is kept",
                f"{self._env_name} {self._name} out of bounds",
            )


def _squeeze(shape: Sequence[int]) -> list[int]:
    """A shape without axes of length 1: between two shapes that agree in it, reshaping is unambiguous."""
    return [axis for axis in shape if axis != 1]


def _dtype_bounds(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The smallest and the largest value of an integer or bool dtype."""
    return (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
