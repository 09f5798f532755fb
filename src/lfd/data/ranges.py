"""The range of a column's values: extremes, where they are, and outliers far from all other values."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple, final

import numpy as np

from lfd.envs.spaces import Array

_BLOCK_ROWS = 8_192
_SAMPLE_SIZE = 1 << 20  # values of a column that are kept to estimate its typical range
# The typical range of a column leaves out one row of so many at either end, and at least so many rows.
_TRIM_FRACTION, _TRIM_MIN = 2_000, 4
# A value is an outlier this many widths of the typical range beyond it; the second limit refuses the file.
OUTLIER_WIDTHS, ABSURD_WIDTHS = 10.0, 1e6
_SQUARE_OVERFLOWS = 1e18  # in float32, the dtype of observation statistics
_MIN_ROWS = 20  # from which a typical range is estimated


class Outlier(NamedTuple):
    """A value far from all others of its dimension."""

    dimension: int
    episode: int
    step: int
    value: float
    low: float  # the typical range
    high: float
    widths: float  # distance to the typical range, in `high - low`
    is_absurd: bool  # beyond ABSURD_WIDTHS, or its square overflows float32


def typical_range(sample: Array) -> tuple[Array, Array]:
    """([D] low, [D] high) of all but a few rows of a sample [N, D]; infinite if those are equal or N is too small."""
    if len(sample) < _MIN_ROWS:
        return np.full(sample.shape[1], -np.inf), np.full(sample.shape[1], np.inf)
    trimmed = max(min(_TRIM_MIN, len(sample) // _MIN_ROWS), len(sample) // _TRIM_FRACTION)
    ordered = np.partition(sample, [trimmed, len(sample) - 1 - trimmed], axis=0)
    low, high = ordered[trimmed].astype(np.float64), ordered[-1 - trimmed].astype(np.float64)
    is_constant = low == high
    return np.where(is_constant, -np.inf, low), np.where(is_constant, np.inf, high)


def plausible_range(sample: Array) -> tuple[Array, Array]:
    """([D] low, [D] high) beyond which a value is an outlier, estimated from a sample [N, D]."""
    low, high = typical_range(sample)
    margin = np.where(np.isfinite(high), OUTLIER_WIDTHS * (high - np.where(np.isfinite(low), low, 0.0)), 0.0)
    return low - margin, high + margin


def sample_stride(rows: int, width: int) -> int:
    """The stride that leaves about 2^20 values of `rows` rows with `width` values each."""
    return max(1, -(-rows * width // _SAMPLE_SIZE))


@final
class ColumnRange:
    """Extremes by dimension of a column [T, ...] that comes episode by episode, and a sample of its rows."""

    def __init__(self, column: Array) -> None:
        self.shape, self.dtype = column.shape[1:], column.dtype
        self.rows = 0
        self._width = int(np.prod(self.shape, dtype=np.int64))
        self._starts: list[int] = []  # first row of each episode
        self._episodes: list[int] = []
        self._num_pending = 0
        self._pending: list[Array] = []
        self._sample: list[Array] = []
        self._stride = 1
        self._distinct: Array = np.empty(0, column.dtype)
        self.low, self.high = (np.full(self._width, value) for value in (np.inf, -np.inf))
        self._low_rows, self._high_rows = (np.zeros(self._width, np.int64) for _ in range(2))

    @property
    def is_pixels(self) -> bool:
        """True for arrays of bytes, whose values are not looked at."""
        return self.dtype == np.uint8 and len(self.shape) > 0

    def add(self, column: Array, episode: int) -> None:
        """Adds the rows [T, ...] of an episode, given its index."""
        if self.is_pixels:
            return
        self._starts.append(self.rows + self._num_pending)
        self._episodes.append(episode)
        self._pending.append(column.reshape(len(column), -1))
        self._num_pending += len(column)
        if self._num_pending * max(self._width, _SAMPLE_SIZE // _BLOCK_ROWS) >= _SAMPLE_SIZE:
            self.flush()

    def flush(self) -> None:
        """Processes pending rows: those of many episodes at once, as an episode may be one step."""
        if self._pending:
            self._update(np.concatenate(self._pending))
            self.rows, self._num_pending, self._pending = self.rows + self._num_pending, 0, []

    def locate(self, row: int) -> tuple[int, int]:
        """The episode and the step of a row."""
        index = bisect_right(self._starts, row) - 1
        return self._episodes[index], row - self._starts[index]

    def num_distinct(self) -> int:
        """Number of distinct values of a column of integers; a lower bound above 8,192."""
        return len(self._distinct)

    def maximum(self) -> tuple[float, int, int]:
        """The largest value, its episode and its step."""
        dimension = int(self.high.argmax())
        return float(self.high[dimension]), *self.locate(int(self._high_rows[dimension]))

    def mean_and_std(self) -> tuple[Array, Array]:
        """([D] mean, [D] standard deviation) of the sample."""
        sample = np.concatenate(self._sample).astype(np.float64)
        return sample.mean(0), sample.std(0)

    def farthest_outlier(self) -> Outlier | None:
        """The value that lies farthest from all others of its dimension; None if there is no outlier."""
        if self.dtype.kind != "f" or not self._sample:
            return None
        low, high = typical_range(np.concatenate(self._sample))
        outliers: list[Outlier] = []
        for values, rows, bound in ((self.low, self._low_rows, low), (self.high, self._high_rows, high)):
            with np.errstate(invalid="ignore", over="ignore"):
                distances = np.nan_to_num(np.abs(values - bound) / (high - low))
            distances[np.isinf(bound)] = 0.0
            is_outlier = (distances > OUTLIER_WIDTHS) | (np.abs(values) >= _SQUARE_OVERFLOWS)
            for dimension in np.flatnonzero(is_outlier).tolist():
                value, widths = float(values[dimension]), float(distances[dimension])
                is_absurd = widths > ABSURD_WIDTHS or abs(value) >= _SQUARE_OVERFLOWS
                place, bounds = self.locate(int(rows[dimension])), (float(low[dimension]), float(high[dimension]))
                outliers.append(Outlier(dimension, *place, value, *bounds, widths, is_absurd))
        return max(outliers, key=lambda outlier: (outlier.is_absurd, outlier.widths), default=None)

    def _update(self, block: Array) -> None:
        columns = np.arange(self._width)
        for is_low in (True, False):
            block_rows = block.argmin(0) if is_low else block.argmax(0)
            values = block[block_rows, columns].astype(np.float64)
            extremes, rows = (self.low, self._low_rows) if is_low else (self.high, self._high_rows)
            is_new = values < extremes if is_low else values > extremes
            extremes[is_new], rows[is_new] = values[is_new], self.rows + block_rows[is_new]
        if self.dtype.kind == "f":
            self._add_to_sample(block)
        elif self._width == 1 and len(self._distinct) <= _BLOCK_ROWS:
            self._distinct = np.union1d(self._distinct, block)

    def _add_to_sample(self, block: Array) -> None:
        self._sample.append(block[-self.rows % self._stride :: self._stride].copy())
        if sum(part.size for part in self._sample) > 2 * _SAMPLE_SIZE:
            sample = np.concatenate(self._sample)
            self._sample, self._stride = [sample[::2].copy()], 2 * self._stride


def dimension_name(name: str, column: ColumnRange, dimension: int) -> str:
    """The name of a dimension of a column, as observations[2]."""
    indices: Any = np.unravel_index(dimension, column.shape) if column.shape else ()
    return f"{name}[{', '.join(str(int(index)) for index in indices)}]" if len(indices) else name
