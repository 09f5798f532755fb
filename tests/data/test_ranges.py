from __future__ import annotations

import numpy as np
import pytest

from lfd.data.ranges import Range, ordinary, plausible


@pytest.fixture
def values():
    return np.random.default_rng(0).uniform(-1, 1, (3000, 2))


def gathered(column, lengths):
    found, start = Range(column), 0
    for episode, length in enumerate(lengths):
        found.add(column[start : start + length], 10 + episode)
        start += length
    found.flush()
    return found


def test_a_few_values_do_not_move_what_is_ordinary(values):
    low, high = ordinary(values)
    values[[5, 9], [0, 1]] = 1e9, -1e9
    moved_low, moved_high = ordinary(values)
    assert np.allclose(low, moved_low, atol=0.01) and np.allclose(high, moved_high, atol=0.01)
    assert (plausible(values)[1] < 25).all() and (plausible(values)[1] > 20).all()


def test_rare_events_in_a_still_dimension_are_ordinary():
    column = np.zeros((3000, 1))
    column[7] = 1
    assert ordinary(column) == (-np.inf, np.inf) and gathered(column, [3000]).farthest() is None


@pytest.mark.parametrize("lengths", [[1] * 3000, [1000, 2000], [3000]])
def test_a_far_value_is_found_with_its_place(values, lengths):
    values[1234, 1] = 700.0
    far = gathered(values, lengths).farthest()
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, 1234, "right"))
    place = (10 + episode, 1234 - (ends[episode] - lengths[episode]))
    assert (far.dimension, far.episode, far.step, far.value, far.is_absurd) == (1, *place, 700.0, False)


@pytest.mark.parametrize(("value", "is_absurd"), [(1e5, False), (1e8, True), (-1e30, True)])
def test_an_absurd_value_is_told_from_a_far_one(values, value, is_absurd):
    values[3, 0] = value
    assert gathered(values, [3000]).farthest().is_absurd == is_absurd


def test_what_cannot_be_squared_in_float32_is_absurd_even_among_few_rows():
    assert gathered(np.array([[0.0], [3e20]]), [2]).farthest().is_absurd


def test_a_sample_of_a_long_column_is_bounded():
    column = np.arange(3 << 20, dtype=np.float32).reshape(-1, 4)
    found = gathered(column, [1 << 16] * 12)
    mean, deviation = found.deviations()
    assert sum(part.size for part in found._sample) <= 2 << 20
    np.testing.assert_allclose(mean, column.mean(0, dtype=np.float64), rtol=1e-3)
    np.testing.assert_allclose(deviation, column.std(0, dtype=np.float64), rtol=1e-3)
    assert found.top() == (float(column.max()), 21, 65_535)
