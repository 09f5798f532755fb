"""The last `capacity` transitions of several environments, in memory-mapped files that survive a kill.

Each environment has a lane of rows. Row p holds an observation and what was done there; the successor of row p is the
observation of row p + 1, so an episode's final observation takes a row of its own, which is no transition. Lanes are
longer than what may be drawn from them: a writer that is set back to an earlier cursor finds all rows that it could
draw from then unharmed, and writes the later ones again.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.files import reserve

Array = NDArray[Any]


class Ring:
    """`slack` is how many transitions may be written from the last cursor to the next; `paid` keeps a second reward."""

    def __init__(
        self, folder: Path, spaces: Spaces, lanes: int, capacity: int, slack: int, stack: int, paid: bool = False
    ) -> None:
        self.lanes, self.stack = lanes, stack
        self.capacity = -(-capacity // lanes)
        self._transitions = self.capacity + -(-slack // lanes) + 1
        self.length = 2 * self._transitions + stack  # an episode of one step takes two rows
        self.head = np.zeros(lanes, np.int64)  # next row of each lane, counted without wrapping
        self.count = np.zeros(lanes, np.int64)  # transitions written to each lane
        self._lane = np.arange(lanes)
        self._kept = 0  # the largest count at the cursor that one may return to
        folder.mkdir(parents=True, exist_ok=True)
        self._columns: dict[str, Any] = {}
        self._dict = isinstance(spaces.observation, gym.spaces.Dict)
        layout = self._layout(spaces) | ({"paid": ((), np.float32)} if paid else {})
        for name, (shape, dtype) in layout.items():
            self._columns[name] = _mapped(folder / f"{name}.npy", (lanes, self.length, *shape), dtype)

    def _layout(self, spaces: Spaces) -> dict[str, tuple[tuple[int, ...], Any]]:
        parts: Any = spaces.observation.spaces if self._dict else {"": spaces.observation}  # type: ignore[attr-defined]
        layout: dict[str, tuple[tuple[int, ...], Any]] = {}
        for name, part in parts.items():
            shape = part.shape[1:] if self.stack > 1 else part.shape
            layout[f"obs.{name}"] = (shape, part.dtype)
        layout["action"] = (spaces.action.shape or (), np.float32 if spaces.actions == "continuous" else np.int64)
        layout |= {"reward": ((), np.float32), "terminated": ((), np.bool_), "truncated": ((), np.bool_)}
        # age: steps since the episode began. position: the row of the lane's n-th transition, in slot n.
        return layout | {"age": ((), np.int32), "position": ((), np.int64)}

    def begin(self, lanes: Array, obs: Any) -> None:
        """Fresh episodes in these lanes, in place of what stands at their heads."""
        self._write_obs(lanes, self.head[lanes], obs)
        self._columns["age"][lanes, self.head[lanes] % self.length] = 0

    def add(
        self, lanes: Array, action: Array, reward: Array, terminated: Array, truncated: Array, next_obs: Any,
        paid: Array | None = None,
    ) -> None:  # fmt: skip
        """One transition in each of these lanes, from the observation at its head to `next_obs`."""
        c, head = self._columns, self.head[lanes]
        if self.count.max() - self._kept >= self._transitions - self.capacity - 1:
            raise Refused(
                f"replay: more than {(self._transitions - self.capacity - 1) * self.lanes:,} transitions came in "
                "between two checkpoints, so that no resume would be possible; set a smaller boundary of the stage"
            )
        at = head % self.length
        c["action"][lanes, at], c["reward"][lanes, at] = action, reward
        c["terminated"][lanes, at], c["truncated"][lanes, at] = terminated, truncated
        if paid is not None:
            c["paid"][lanes, at] = paid
        c["position"][lanes, self.count[lanes] % self._transitions] = head
        self.head[lanes] += 1
        self.count[lanes] += 1
        self._write_obs(lanes, head + 1, next_obs)
        c["age"][lanes, (head + 1) % self.length] = c["age"][lanes, at] + 1

    def end(self, lanes: Array, obs: Any) -> None:
        """These lanes' episodes are over: behind the final observation a new one begins with `obs`."""
        self.head[lanes] += 1
        self.begin(lanes, obs)

    def cut(self) -> None:
        """Mark running episodes as truncated and leave room behind their last observation."""
        running = np.flatnonzero(self._columns["age"][self._lane, self.head % self.length] > 0)
        self._columns["truncated"][running, (self.head[running] - 1) % self.length] = True
        self.head[running] += 1

    def __len__(self) -> int:
        """Transitions that may be drawn."""
        return self.places(1)

    def places(self, length: int, since: Array | int = 0) -> int:
        """Where `length` transitions of one lane that may be drawn begin, from its `since`-th on."""
        return int(self._places(length, since).sum())

    def _places(self, length: int, since: Array | int) -> Array:
        places: Array = np.maximum(self.count - self._oldest(since) - length + 1, 0)
        return places

    def _oldest(self, since: Array | int) -> Array:
        """Which of each lane's transitions is the first that may be drawn."""
        oldest: Array = np.maximum(self.count - self.capacity, since)
        return oldest

    def locate(self, index: Array, length: int = 1, since: Array | int = 0) -> tuple[Array, Array]:
        """Lane and row [B * length] of the transitions from each of these places [B] on; index in [0, places)."""
        places = self._places(length, since)
        ends = places.cumsum()
        lane = np.searchsorted(ends, index, side="right")
        nth = (self._oldest(since) - ends + places)[lane] + index
        lanes = lane.repeat(length)
        return lanes, self.position(lanes, (nth[:, None] + np.arange(length)).ravel())

    def position(self, lane: Array, nth: Array) -> Array:
        """Row of the n-th transition that the lane took in."""
        position: Array = self._columns["position"][lane, nth % self._transitions]
        return position

    def column(self, name: str, lane: Array, row: Array) -> Array:
        values: Array = self._columns[name][lane, row % self.length]
        return values

    def observations(self, lane: Array, row: Array) -> Any:
        """[B, ...], frames stacked; a stack that reaches behind the episode's start repeats its first frame."""
        if self.stack == 1:
            seen = {n[4:]: c[lane, row % self.length] for n, c in self._columns.items() if n.startswith("obs.")}
            return seen if self._dict else seen[""]
        back = np.minimum(np.arange(self.stack - 1, -1, -1), self.column("age", lane, row)[:, None])
        return self._columns["obs."][lane[:, None], (row[:, None] - back) % self.length]

    def _write_obs(self, lanes: Array, row: Array, obs: Any) -> None:
        parts = obs if isinstance(obs, dict) else {"": obs}
        for name, values in parts.items():
            newest = values[:, -1] if self.stack > 1 else values
            self._columns[f"obs.{name}"][lanes, row % self.length] = newest

    def cursor(self) -> dict[str, list[int]]:
        """Where the writing stands, durable; from now on only this cursor and later ones may be returned to."""
        for column in self._columns.values():
            column.flush()
        self._kept = int(self.count.max())
        return {"head": self.head.tolist(), "count": self.count.tolist()}

    def return_to(self, cursor: dict[str, list[int]]) -> None:
        self.head[:], self.count[:] = cursor["head"], cursor["count"]
        self._kept = int(self.count.max())


def _mapped(path: Path, shape: tuple[int, ...], dtype: Any) -> Array:
    if not path.exists():
        beside = path.with_name(f"{path.name}.tmp")
        np.lib.format.open_memmap(beside, mode="w+", dtype=dtype, shape=shape)
        reserve(beside)
        beside.rename(path)
    return np.lib.format.open_memmap(path, mode="r+")


class SumTree:
    """Non-negative weights of `size` leaves; draws leaves in proportion (Schaul et al. 2016, appendix B.2.1)."""

    def __init__(self, size: int) -> None:
        self._leaves = 1 << max(size - 1, 1).bit_length()
        self._nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        return float(self._nodes[1])

    def set(self, leaf: Array, weight: Array) -> None:
        node = leaf + self._leaves
        self._nodes[node] = weight
        while node[0] > 1:
            node = np.unique(node // 2)
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

    def weights(self, leaf: Array) -> Array:
        found: Array = self._nodes[leaf + self._leaves]
        return found

    def find(self, share: Array) -> Array:
        """The leaf under each share of the total, in [0, 1)."""
        node, rest = np.ones(len(share), np.int64), share * self.total
        while node[0] < self._leaves:
            left = self._nodes[2 * node]
            # Sums are rounded: what is left over may not lead to a leaf without weight.
            right = (rest >= left) & (self._nodes[2 * node + 1] > 0)
            rest = np.where(right, rest - left, rest)
            node = 2 * node + right
        found: Array = node - self._leaves
        return found

    def save(self) -> Array:
        return self._nodes[self._leaves :].copy()

    def restore(self, leaves: Array) -> None:
        self._nodes[self._leaves :] = leaves
        for node in range(self._leaves - 1, 0, -1):
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]
