"""An episode in memory, and the columns that its steps become on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from lfd.envs.spaces import Spaces
from lfd.errors import Refused

Array = npt.NDArray[Any]
Observations = Array | dict[str, Array]

_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Episode:
    """One episode of T transitions, from a reset to its end or to where the recording stopped.

    With frame stacking the observations are single frames, each stored once. An episode that is neither terminated
    nor truncated was cut: the recording stopped, or the file does not say why it ended.
    """

    observations: Observations  # [T+1, ...], or a dict of those; [T, ...] where the final observation is not known
    actions: Array  # [T] int64 (discrete) or [T, A] float32
    rewards: Array  # [T] float32, true rewards
    terminated: bool  # the task ended: nothing follows the last action
    truncated: bool  # a time limit stopped it: the final observation has a value
    infos: dict[str, Array] = field(default_factory=dict)  # numeric columns [T, ...]

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def is_complete(self) -> bool:
        """Whether the final observation is known."""
        return all(len(column) == len(self) + 1 for column in flatten(self.observations).values())


def kept_of(episode: Episode) -> int:
    """How many of its transitions can be learnt from: the last one needs a successor unless it terminated."""
    return len(episode) if episode.is_complete or episode.terminated else len(episode) - 1


def flatten(observations: Observations) -> dict[str, Array]:
    """`{"observations": array}`, or one `"observations/<key>"` a key of a dict observation."""
    if isinstance(observations, dict):
        return {f"observations/{key}": column for key, column in observations.items()}
    return {"observations": observations}


def unflatten(columns: dict[str, Array]) -> Observations:
    """The inverse of `flatten`."""
    if "observations" in columns:
        return columns["observations"]
    return {name.removeprefix("observations/"): column for name, column in columns.items()}


def step_dtype(spaces: Spaces, stack: int, infos: dict[str, Array]) -> np.dtype[Any]:
    """The packed record of one step: its observation, action, reward and infos (`infos`: an example with rows)."""
    fields: list[tuple[str, Any, tuple[int, ...]]] = [
        (name, space.dtype, _shape(space)) for name, space in _observation_columns(spaces, stack).items()
    ]
    action = spaces.action
    fields.append(("actions", np.int64 if isinstance(action, gym.spaces.Discrete) else action.dtype, _shape(action)))
    fields.append(("rewards", np.float32, ()))
    fields += [(f"infos/{key}", column.dtype, column.shape[1:]) for key, column in sorted(infos.items())]
    return np.dtype(fields)


def conform(episode: Episode, spaces: Spaces, stack: int = 1) -> Episode:
    """The episode with the dtypes of `spaces`; columns that are there already are not copied.

    Raises:
        Refused: a column is missing or has another shape than its space, or lengths disagree.
    """
    columns = flatten(episode.observations)
    observations = {}
    for name, space in _observation_columns(spaces, stack).items():
        if name not in columns:
            raise Refused(f"data: no column {name!r}, which this environment has; the data has {', '.join(columns)}")
        observations[name] = _cast(name, columns[name], space)
    result = replace(
        episode,
        observations=unflatten(observations),
        actions=_cast("actions", episode.actions, spaces.action),
        rewards=np.asarray(episode.rewards, np.float32).reshape(-1),
        infos={key: np.asarray(column) for key, column in episode.infos.items()},
    )
    _check_lengths(result)
    return result


def check_numbers(episode: Episode, where: str) -> None:
    """Raise Refused unless each observation, action and reward is a finite number in float32, and one row a step."""
    columns = flatten(episode.observations) | {"actions": episode.actions, "rewards": episode.rewards}
    for name, column in columns.items():
        if column.dtype.kind not in "biuf":
            raise Refused(f"{where}: {name} are {column.dtype} values (text or objects); expected numbers")
        if 0 in column.shape[1:]:
            raise Refused(f"{where}: {name} have the shape {column.shape}, with no number in a row; expected some")
        if column.dtype.kind != "f":
            continue
        wrong = ~np.isfinite(column) if column.dtype.itemsize <= 4 else ~(np.abs(column) <= _LARGEST)
        if wrong.any():
            at = tuple(int(index) for index in np.argwhere(wrong)[0])
            value = column[at]
            what = "beyond what float32 holds" if np.isfinite(value) else "not finite numbers"
            raise Refused(
                f"{where}: {name} of step {at[0]} are {what} ({_cell(name, at[1:])} is {value:g}); correct them, or "
                "leave that episode out"
            )
    _check_lengths(episode, f"{where}: ")


def _cell(name: str, at: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, at))}]" if at else name


def _check_lengths(episode: Episode, where: str = "data: ") -> None:
    steps = len(episode)
    lengths = {name: len(column) for name, column in flatten(episode.observations).items()}
    wrong = {name: n for name, n in lengths.items() if n != max(lengths.values()) or n not in (steps, steps + 1)}
    per_step = {"rewards": episode.rewards.size} | {f"infos/{k}": len(v) for k, v in episode.infos.items()}
    wrong |= {name: n for name, n in per_step.items() if n != steps}
    if wrong or steps == 0:
        raise Refused(f"{where}an episode has {steps} actions, but {wrong or 'no transition'}; expected one row a step")


def _cast(name: str, column: Array, space: gym.Space[Any]) -> Array:
    column = np.asarray(column)
    if len(_shape(space)) < 2 and column[:1].size == math.prod(_shape(space)):
        # Discrete actions as (T, 1), scalars, actions with axes: environments are flattened in the same way.
        column = column.reshape(-1, *_shape(space))
    if column.shape[1:] != _shape(space):
        raise Refused(f"data: {name} have shape {column.shape[1:]}, but the environment has {_shape(space)}")
    wanted = np.dtype(np.int64 if name == "actions" and isinstance(space, gym.spaces.Discrete) else space.dtype)
    if not np.can_cast(column.dtype, wanted, "same_kind") and not _is_integral(column, wanted):
        raise Refused(f"data: {name} are {column.dtype}, but the environment has {wanted}")
    return column.astype(wanted, copy=False)


def _is_integral(column: Array, wanted: np.dtype[Any]) -> bool:
    """Other people's files keep counts and actions in floats; that loses nothing as long as the values are whole."""
    return column.dtype.kind in "biuf" and bool(np.array_equal(column.astype(wanted), column))


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


def cut(episode: Episode, limit: int) -> Episode:
    """The first `limit` steps. It ends neither in a termination nor at a time limit; its next observation is known."""
    if len(episode) <= limit:
        return episode
    obs = episode.observations
    shorter: Any = {k: v[: limit + 1] for k, v in obs.items()} if isinstance(obs, dict) else obs[: limit + 1]
    infos = {name: column[:limit] for name, column in episode.infos.items()}
    return Episode(shorter, episode.actions[:limit], episode.rewards[:limit], False, False, infos)
