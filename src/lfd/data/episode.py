"""An episode in memory, its checks and conversions, and the record that each of its steps is on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np

from lfd.envs.spaces import Array, Cells, Indices, Spaces, Words
from lfd.errors import UserError

ObservationArrays = Array | dict[str, Array]

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass
class Episode:
    """One episode of T transitions, from a reset to its end or to where the recording stopped.

    With frame stacking, observations are single frames, each stored once. An episode that is neither terminated nor
    truncated was cut: the recording stopped, or the file does not say why the episode ended.
    """

    observations: ObservationArrays  # [T+1, ...], or a dict of those; [T, ...] where the final observation is not known
    actions: Array  # [T] int64 (discrete) or [T, A] float32
    rewards: Array  # [T] float32, rewards of the environment
    terminated: bool  # the task ended: the final observation has no value
    truncated: bool  # a time limit stopped the episode: the final observation has a value
    infos: dict[str, Array] = field(default_factory=dict)  # numeric columns [T, ...]

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def has_final_observation(self) -> bool:
        """True if the observation after the last action is known."""
        return all(len(column) == len(self) + 1 for column in flatten_observations(self.observations).values())


def num_usable_steps(episode: Episode) -> int:
    """Number of transitions with a next observation; the last one needs none if the episode terminated."""
    return len(episode) if episode.has_final_observation or episode.terminated else len(episode) - 1


def flatten_observations(observations: ObservationArrays) -> dict[str, Array]:
    """`{"observations": array}`, or one entry `"observations/<key>"` for each key of a dict; arrays [T, ...]."""
    if isinstance(observations, dict):
        return {f"observations/{key}": column for key, column in observations.items()}
    return {"observations": observations}


def unflatten_observations(columns: dict[str, Array]) -> ObservationArrays:
    """The inverse of `flatten_observations`: the array [T, ...], or a dict of those."""
    if "observations" in columns:
        return columns["observations"]
    return {name.removeprefix("observations/"): column for name, column in columns.items()}


def step_dtype(spaces: Spaces, stack: int, infos: dict[str, Array]) -> np.dtype[Any]:
    """Dtype of the packed record of one step: observation, action, reward and infos.

    `infos` are columns [T, ...] that show dtypes and shapes; T may be 0.
    """
    fields: list[tuple[str, Any, tuple[int, ...]]] = [
        (name, space.dtype, _shape(space)) for name, space in _observation_columns(spaces, stack).items()
    ]
    action = spaces.action
    fields.append(("actions", np.int64 if isinstance(action, gym.spaces.Discrete) else action.dtype, _shape(action)))
    fields.append(("rewards", np.float32, ()))
    fields += [(f"infos/{key}", column.dtype, column.shape[1:]) for key, column in sorted(infos.items())]
    return np.dtype(fields)


def cast_to_spaces(episode: Episode, spaces: Spaces, stack: int = 1) -> Episode:
    """The episode with the dtypes of `spaces`; columns that have them already are not copied.

    Raises:
        UserError: a column is missing or has another shape than its space, or lengths disagree.
    """
    columns = flatten_observations(episode.observations)
    observations = {}
    for name, space in _observation_columns(spaces, stack).items():
        if name not in columns:
            raise UserError(
                f"data: expected a column {name!r}, as the environment has it, got {', '.join(columns)}; choose the "
                "environment that recorded the data"
            )
        observations[name] = _cast(name, columns[name], space)
    result = replace(
        episode,
        observations=unflatten_observations(observations),
        actions=_cast("actions", episode.actions, spaces.action),
        rewards=np.asarray(episode.rewards, np.float32).reshape(-1),
        infos={key: np.asarray(column) for key, column in episode.infos.items()},
    )
    _check_lengths(result)
    return result


def check_finite(episode: Episode, where: str) -> None:
    """Raises UserError unless observations, actions and rewards are finite in float32, with one row a step.

    `where` begins the message: the file and the episode.
    """
    columns = flatten_observations(episode.observations) | {"actions": episode.actions, "rewards": episode.rewards}
    for name, column in columns.items():
        if column.dtype.kind not in "biuf":
            raise UserError(
                f"{where}: {name}: expected numbers, got {column.dtype} values (text or objects); write them as an "
                "array of numbers"
            )
        if 0 in column.shape[1:]:
            raise UserError(f"{where}: {name}: expected numbers in each row, got the shape {column.shape}; write them")
        if column.dtype.kind != "f":
            continue
        is_bad = ~np.isfinite(column) if column.dtype.itemsize <= 4 else ~(np.abs(column) <= _FLOAT32_MAX)
        if is_bad.any():
            step, *indices = (int(index) for index in np.argwhere(is_bad)[0])
            value = column[(step, *indices)]
            expected = "numbers that float32 holds" if np.isfinite(value) else "finite numbers"
            place = f" at {indices}" if indices else ""
            raise UserError(
                f"{where}: {name} of step {step}: expected {expected}, got {value:g}{place}; "
                "correct them, or leave that episode out"
            )
    _check_lengths(episode, f"{where}: ")


def _check_lengths(episode: Episode, where: str = "data: ") -> None:
    steps = len(episode)
    lengths = {name: len(column) for name, column in flatten_observations(episode.observations).items()}
    bad = {name: n for name, n in lengths.items() if n != max(lengths.values()) or n not in (steps, steps + 1)}
    per_step = {"rewards": episode.rewards.size} | {f"infos/{k}": len(v) for k, v in episode.infos.items()}
    bad |= {name: n for name, n in per_step.items() if n != steps}
    if bad or steps == 0:
        got = ", ".join(f"{n} {name}" for name, n in bad.items()) or "no transition"
        raise UserError(
            f"{where}expected one row a step, got {steps} actions and {got} in an episode; correct the file"
        )


def _cast(name: str, column: Array, space: gym.Space[Any]) -> Array:
    column = np.asarray(column)
    if len(_shape(space)) < 2 and column[:1].size == math.prod(_shape(space)):
        # Discrete actions as [T, 1], scalars, actions with axes: environments are flattened in the same way.
        column = column.reshape(-1, *_shape(space))
    if column.shape[1:] != _shape(space):
        raise UserError(
            f"data: {name}: expected the shape {_shape(space)}, as the environment has it, got {column.shape[1:]}; "
            "choose the environment that recorded the data"
        )
    dtype = np.dtype(np.int64 if name == "actions" and isinstance(space, gym.spaces.Discrete) else space.dtype)
    if not np.can_cast(column.dtype, dtype, "same_kind") and not _is_exact_in(column, dtype):
        raise UserError(
            f"data: {name}: expected {dtype}, as the environment has it, got {column.dtype}; "
            "choose the environment that recorded the data"
        )
    if isinstance(space, Cells | Indices | Words) and not ((column >= space.low) & (column <= space.high)).all():
        raise UserError(
            f"data: {name}: expected indices of {space}, got larger ones; choose the environment that recorded the data"
        )
    return column.astype(dtype, copy=False)


def _is_exact_in(column: Array, dtype: np.dtype[Any]) -> bool:
    """True if the cast loses nothing, as for whole numbers in floats: so foreign files keep counts and actions."""
    return column.dtype.kind in "biuf" and bool(np.array_equal(column.astype(dtype), column))


def _observation_columns(spaces: Spaces, stack: int) -> dict[str, gym.Space[Any]]:
    space = spaces.observation
    if isinstance(space, gym.spaces.Dict):
        return {f"observations/{key}": part for key, part in space.spaces.items()}
    if stack > 1:
        assert isinstance(space, gym.spaces.Box) and space.shape[0] == stack
        return {"observations": gym.spaces.Box(space.low[0], space.high[0], dtype=space.dtype.type)}
    return {"observations": space}


def _shape(space: gym.Space[Any]) -> tuple[int, ...]:
    assert space.shape is not None
    return tuple(space.shape)


def cut_episode(episode: Episode, limit: int) -> Episode:
    """The first `limit` steps, neither terminated nor truncated; the whole episode if it has no more."""
    if len(episode) <= limit:
        return episode
    columns = flatten_observations(episode.observations)
    observations = unflatten_observations({name: column[: limit + 1] for name, column in columns.items()})
    infos = {name: column[:limit] for name, column in episode.infos.items()}
    return Episode(observations, episode.actions[:limit], episode.rewards[:limit], False, False, infos)
