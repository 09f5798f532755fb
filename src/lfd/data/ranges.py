"""How far the values of a column reach, where its extremes are, and which lie far from all others."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple, final

import numpy as np

from lfd.data.episode import Array

_BLOCK_ROWS = 8_192
_SAMPLE = 1 << 20  # values of a column that are kept to tell what is ordinary
# What all but a few values cover is a width; the few are one of so many at either end, and so many at least.
_FEW, _FEWEST = 2_000, 4
FAR, ABSURD = 10.0, 1e6  # widths away from the ordinary: told of, refused
_SQUARE_OVERFLOWS = 1e18  # in float32, in which statistics are kept
_ENOUGH = 20  # rows to tell it from


class Extreme(NamedTuple):
    """A value far from all others of its dimension."""

    dimension: int
    episode: int
    step: int
    value: float
    low: float  # where the others end
    high: float
    widths: float  # how far it lies beyond, in `high - low`
    is_absurd: bool


def ordinary(sample: Array) -> tuple[Array, Array]:
    """([D], [D]) where all but a few of the rows [N, D] lie; unbounded where those are equal, or too few to tell."""
    if len(sample) < _ENOUGH:
        return np.full(sample.shape[1], -np.inf), np.full(sample.shape[1], np.inf)
    few = max(min(_FEWEST, len(sample) // _ENOUGH), len(sample) // _FEW)
    ordered = np.partition(sample, [few, len(sample) - 1 - few], axis=0)
    low, high = ordered[few].astype(np.float64), ordered[-1 - few].astype(np.float64)
    same = low == high
    return np.where(same, -np.inf, low), np.where(same, np.inf, high)


def plausible(sample: Array) -> tuple[Array, Array]:
    """([D], [D]) the bounds beyond which a value lies far from all others."""
    low, high = ordinary(sample)
    reach = np.where(np.isfinite(high), FAR * (high - np.where(np.isfinite(low), low, 0.0)), 0.0)
    return low - reach, high + reach


def sampled(rows: int, width: int) -> int:
    """Every how many-th of `rows` with `width` values is enough of a sample."""
    return max(1, -(-rows * width // _SAMPLE))


@final
class Range:
    """Of a column that comes in episodes [T, ...]: its extremes by dimension, and a sample of it."""

    def __init__(self, column: Array) -> None:
        self.shape, self.dtype = column.shape[1:], column.dtype
        self.rows = 0
        self._width = int(np.prod(self.shape, dtype=np.int64))
        self._starts: list[int] = []
        self._episodes: list[int] = []
        self._pending = 0
        self._waiting: list[Array] = []
        self._sample: list[Array] = []
        self._every = 1
        self._distinct: Array = np.empty(0, column.dtype)
        self.low, self.high = (np.full(self._width, value) for value in (np.inf, -np.inf))
        self._low_at, self._high_at = (np.zeros(self._width, np.int64) for _ in range(2))

    @property
    def is_pixels(self) -> bool:
        return self.dtype == np.uint8 and len(self.shape) > 0

    def add(self, column: Array, episode: int) -> None:
        """Take in a column of the file's `episode`."""
        if self.is_pixels:
            return
        self._starts.append(self.rows + self._pending)
        self._episodes.append(episode)
        self._waiting.append(column.reshape(len(column), -1))
        self._pending += len(column)
        if self._pending * max(self._width, _SAMPLE // _BLOCK_ROWS) >= _SAMPLE:
            self.flush()

    def flush(self) -> None:
        """Take in what waits: many episodes at once, as they may be of one step each."""
        if self._waiting:
            self._widen(np.concatenate(self._waiting))
            self.rows, self._pending, self._waiting = self.rows + self._pending, 0, []

    def place(self, row: int) -> tuple[int, int]:
        """The episode and the step of a row."""
        index = bisect_right(self._starts, row) - 1
        return self._episodes[index], row - self._starts[index]

    def distinct(self) -> int:
        """How many whole numbers occur; of many, at least so many."""
        return len(self._distinct)

    def top(self) -> tuple[float, int, int]:
        """The largest value, and the episode and step where it is."""
        dimension = int(self.high.argmax())
        return float(self.high[dimension]), *self.place(int(self._high_at[dimension]))

    def deviations(self) -> tuple[Array, Array]:
        """([D] mean, [D] standard deviation) of the sample."""
        sample = np.concatenate(self._sample).astype(np.float64)
        return sample.mean(0), sample.std(0)

    def farthest(self) -> Extreme | None:
        """The value that lies farthest from all others of its dimension, if any does."""
        if self.dtype.kind != "f" or not self._sample:
            return None
        low, high = ordinary(np.concatenate(self._sample))
        found: list[Extreme] = []
        for values, at, side in ((self.low, self._low_at, low), (self.high, self._high_at, high)):
            with np.errstate(invalid="ignore", over="ignore"):
                beyond = np.nan_to_num(np.abs(values - side) / (high - low))
            beyond[np.isinf(side)] = 0.0
            for dimension in np.flatnonzero((beyond > FAR) | (np.abs(values) >= _SQUARE_OVERFLOWS)).tolist():
                value, widths = float(values[dimension]), float(beyond[dimension])
                is_absurd = widths > ABSURD or abs(value) >= _SQUARE_OVERFLOWS
                ends = float(low[dimension]), float(high[dimension])
                found.append(Extreme(dimension, *self.place(int(at[dimension])), value, *ends, widths, is_absurd))
        return max(found, key=lambda one: (one.is_absurd, one.widths), default=None)

    def _widen(self, block: Array) -> None:
        columns = np.arange(self._width)
        for is_low in (True, False):
            at = block.argmin(0) if is_low else block.argmax(0)
            values = block[at, columns].astype(np.float64)
            known, places = (self.low, self._low_at) if is_low else (self.high, self._high_at)
            better = values < known if is_low else values > known
            known[better], places[better] = values[better], self.rows + at[better]
        if self.dtype.kind == "f":
            self._keep(block)
        elif self._width == 1 and len(self._distinct) <= _BLOCK_ROWS:
            self._distinct = np.union1d(self._distinct, block)

    def _keep(self, block: Array) -> None:
        self._sample.append(block[-self.rows % self._every :: self._every].copy())
        if sum(part.size for part in self._sample) > 2 * _SAMPLE:
            together = np.concatenate(self._sample)
            self._sample, self._every = [together[::2].copy()], 2 * self._every


def cell(name: str, range_: Range, dimension: int) -> str:
    """A dimension of a column, as in observations[2]."""
    at: Any = np.unravel_index(dimension, range_.shape) if range_.shape else ()
    return f"{name}[{', '.join(str(int(index)) for index in at)}]" if len(at) else name
