"""Typical ranges and outliers of columns."""

from __future__ import annotations

import numpy as np
import pytest

from lfd.data.ranges import ColumnRange, plausible_range, typical_range


@pytest.fixture
def values():
    return np.random.default_rng(0).uniform(-1, 1, (3000, 2))


def gathered(column, lengths):
    found, start = ColumnRange(column), 0
    for episode, length in enumerate(lengths):
        found.add(column[start : start + length], 10 + episode)
        start += length
    found.flush()
    return found


def test_typical_range_ignores_a_few_extreme_values(values):
    low, high = typical_range(values)
    values[[5, 9], [0, 1]] = 1e9, -1e9
    moved_low, moved_high = typical_range(values)
    assert np.allclose(low, moved_low, atol=0.01) and np.allclose(high, moved_high, atol=0.01)
    assert (plausible_range(values)[1] < 25).all() and (plausible_range(values)[1] > 20).all()


def test_farthest_outlier_of_mostly_constant_dimension_is_none():
    column = np.zeros((3000, 1))
    column[7] = 1
    assert typical_range(column) == (-np.inf, np.inf) and gathered(column, [3000]).farthest_outlier() is None


@pytest.mark.parametrize("lengths", [[1] * 3000, [1000, 2000], [3000]])
def test_farthest_outlier_names_episode_and_step(values, lengths):
    values[1234, 1] = 700.0
    far = gathered(values, lengths).farthest_outlier()
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, 1234, "right"))
    place = (10 + episode, 1234 - (ends[episode] - lengths[episode]))
    assert (far.dimension, far.episode, far.step, far.value, far.is_absurd) == (1, *place, 700.0, False)


@pytest.mark.parametrize(("value", "is_absurd"), [(1e5, False), (1e8, True), (-1e30, True)])
def test_farthest_outlier_prefers_absurd_value(values, value, is_absurd):
    values[3, 0] = value
    assert gathered(values, [3000]).farthest_outlier().is_absurd == is_absurd


def test_farthest_outlier_with_square_overflow_is_absurd_in_few_rows():
    assert gathered(np.array([[0.0], [3e20]]), [2]).farthest_outlier().is_absurd


def test_column_range_sample_of_long_column_is_bounded():
    column = np.arange(3 << 20, dtype=np.float32).reshape(-1, 4)
    found = gathered(column, [1 << 16] * 12)
    mean, deviation = found.mean_and_std()
    assert sum(part.size for part in found._sample) <= 2 << 20
    np.testing.assert_allclose(mean, column.mean(0, dtype=np.float64), rtol=1e-3)
    np.testing.assert_allclose(deviation, column.std(0, dtype=np.float64), rtol=1e-3)
    assert found.maximum() == (float(column.max()), 21, 65_535)
