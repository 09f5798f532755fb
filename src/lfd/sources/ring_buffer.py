"""The last `capacity` transitions of several environments, in memory-mapped files that survive a kill.

Each environment has a ring of rows. Row p holds an observation and the action taken there; the successor of row p is
the observation of row p + 1. An episode's final observation has its own row, which is no transition. Rings hold more
rows than may be drawn: a writer that returns to an earlier cursor finds all rows that could be drawn there unchanged,
and writes the later ones again.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lfd.envs.spaces import Array, Spaces
from lfd.errors import UserError
from lfd.files import allocate_file


class RingBuffer:
    """Stores transitions of environments, whose indices are called `env` below.

    Args:
        folder: folder of the files, one for each column.
        spaces: observation and action spaces.
        num_envs: number of environments.
        capacity: number of transitions that may be drawn, of all environments.
        slack: number of transitions that may be written between two cursors, of all environments.
        stack: number of stacked frames in an observation, which are stored one by one.
        learned_reward: store a second reward.
    """

    def __init__(
        self, folder: Path, spaces: Spaces, num_envs: int, capacity: int, slack: int, stack: int,
        learned_reward: bool = False,
    ) -> None:  # fmt: skip
        self.num_envs, self.stack = num_envs, stack
        self.capacity = -(-capacity // num_envs)  # of each environment
        self._transitions = self.capacity + -(-slack // num_envs) + 1
        self.length = 2 * self._transitions + stack  # an episode of one step takes two rows
        self.head = np.zeros(num_envs, np.int64)  # next row of each environment, counted without wrapping
        self.count = np.zeros(num_envs, np.int64)  # transitions written for each environment
        self._envs = np.arange(num_envs)
        self._cursor_count = 0  # largest `count` at the last cursor
        folder.mkdir(parents=True, exist_ok=True)
        self._columns: dict[str, Any] = {}
        self._dict = isinstance(spaces.observation, gym.spaces.Dict)
        layout = self._layout(spaces) | ({"learned_reward": ((), np.float32)} if learned_reward else {})
        for name, (shape, dtype) in layout.items():
            self._columns[name] = _open_column(folder / f"{name}.npy", (num_envs, self.length, *shape), dtype)

    def _layout(self, spaces: Spaces) -> dict[str, tuple[tuple[int, ...], Any]]:
        parts: Any = spaces.observation.spaces if self._dict else {"": spaces.observation}  # type: ignore[attr-defined]
        layout: dict[str, tuple[tuple[int, ...], Any]] = {}
        for name, part in parts.items():
            shape = part.shape[1:] if self.stack > 1 else part.shape
            layout[f"obs.{name}"] = (shape, part.dtype)
        layout["action"] = (spaces.action.shape or (), np.float32 if spaces.actions == "continuous" else np.int64)
        layout |= {"reward": ((), np.float32), "terminated": ((), np.bool_), "truncated": ((), np.bool_)}
        # age: steps since the episode began. position: the row of the environment's n-th transition, in slot n.
        return layout | {"age": ((), np.int32), "position": ((), np.int64)}

    def begin(self, env: Array, obs: Any) -> None:
        """Begins episodes of these environments [B] with observations [B, ...], in the rows at their heads."""
        self._write_obs(env, self.head[env], obs)
        self._columns["age"][env, self.head[env] % self.length] = 0

    def add(
        self, env: Array, action: Array, reward: Array, terminated: Array, truncated: Array, next_obs: Any,
        learned_reward: Array | None = None,
    ) -> None:  # fmt: skip
        """Adds a transition of each of these environments [B], from the observation at its head to `next_obs`."""
        columns, head = self._columns, self.head[env]
        limit = self._transitions - self.capacity - 1
        if self.count.max() - self._cursor_count >= limit:
            raise UserError(
                f"reset_every: expected at most {limit * self.num_envs:,} transitions in the replay buffer between two "
                "checkpoints, got more, which a resumed run could not restore; set a smaller reset_every"
            )
        at = head % self.length
        columns["action"][env, at], columns["reward"][env, at] = action, reward
        columns["terminated"][env, at], columns["truncated"][env, at] = terminated, truncated
        if learned_reward is not None:
            columns["learned_reward"][env, at] = learned_reward
        columns["position"][env, self.count[env] % self._transitions] = head
        self.head[env] += 1
        self.count[env] += 1
        self._write_obs(env, head + 1, next_obs)
        columns["age"][env, (head + 1) % self.length] = columns["age"][env, at] + 1

    def end(self, env: Array, obs: Any) -> None:
        """Ends the episodes of these environments [B] and begins new ones with observations [B, ...]."""
        self.head[env] += 1
        self.begin(env, obs)

    def cut(self) -> None:
        """Marks running episodes as truncated and leaves a row for their last observation."""
        running = np.flatnonzero(self._columns["age"][self._envs, self.head % self.length] > 0)
        self._columns["truncated"][running, (self.head[running] - 1) % self.length] = True
        self.head[running] += 1

    def __len__(self) -> int:
        """Number of transitions that may be drawn."""
        return self.num_starts(1)

    def num_starts(self, length: int, oldest: Array | int = 0) -> int:
        """Number of sequences of `length` transitions of one environment that may be drawn.

        `oldest` [num_envs] is the number of each environment's first transition that may be drawn, if it is stored.
        """
        return int(self._num_starts(length, oldest).sum())

    def _num_starts(self, length: int, oldest: Array | int) -> Array:
        """`num_starts` of each environment."""
        num_starts: Array = np.maximum(self.count - self._first(oldest) - length + 1, 0)
        return num_starts

    def _first(self, oldest: Array | int) -> Array:
        """The number of each environment's first transition that may be drawn."""
        first: Array = np.maximum(self.count - self.capacity, oldest)
        return first

    def locate(self, index: Array, length: int = 1, oldest: Array | int = 0) -> tuple[Array, Array]:
        """Environments and rows [B * length] of the sequences with these numbers [B], in [0, num_starts)."""
        num_starts = self._num_starts(length, oldest)
        ends = num_starts.cumsum()
        env = np.searchsorted(ends, index, side="right")
        nth = (self._first(oldest) - ends + num_starts)[env] + index
        envs = env.repeat(length)
        return envs, self.position(envs, (nth[:, None] + np.arange(length)).ravel())

    def position(self, env: Array, nth: Array) -> Array:
        """Rows [B] of the environments' n-th transitions [B]."""
        position: Array = self._columns["position"][env, nth % self._transitions]
        return position

    def column(self, name: str, env: Array, row: Array) -> Array:
        """Values [B, ...] of a column at environments [B] and rows [B], or at [B, n] of both."""
        values: Array = self._columns[name][env, row % self.length]
        return values

    def observations(self, env: Array, row: Array) -> Any:
        """Observations [B, ...], frames stacked; a stack at an episode's start repeats the first frame."""
        if self.stack == 1:
            parts = {n[4:]: c[env, row % self.length] for n, c in self._columns.items() if n.startswith("obs.")}
            return parts if self._dict else parts[""]
        back = np.minimum(np.arange(self.stack - 1, -1, -1), self.column("age", env, row)[:, None])
        return self._columns["obs."][env[:, None], (row[:, None] - back) % self.length]

    def _write_obs(self, env: Array, row: Array, obs: Any) -> None:
        parts = obs if isinstance(obs, dict) else {"": obs}
        for name, values in parts.items():
            newest = values[:, -1] if self.stack > 1 else values
            self._columns[f"obs.{name}"][env, row % self.length] = newest

    def cursor(self) -> dict[str, list[int]]:
        """Writes all columns to disk and returns the present cursor, to which `restore` may return from now on."""
        for column in self._columns.values():
            column.flush()
        self._cursor_count = int(self.count.max())
        return {"head": self.head.tolist(), "count": self.count.tolist()}

    def restore(self, cursor: dict[str, list[int]]) -> None:
        """Returns to the last cursor or to the one before it."""
        self.head[:], self.count[:] = cursor["head"], cursor["count"]
        self._cursor_count = int(self.count.max())


def _open_column(path: Path, shape: tuple[int, ...], dtype: Any) -> Array:
    if not path.exists():
        temporary = path.with_name(f"{path.name}.tmp")
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        allocate_file(temporary)
        temporary.rename(path)
    return np.lib.format.open_memmap(path, mode="r+")
