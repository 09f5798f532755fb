from __future__ import annotations

import numpy as np

from lfd.data.readers.flat import breaks, ends_of, reasons, time_limit


def test_ends_are_exclusive_and_the_file_ends_the_last_episode():
    np.testing.assert_array_equal(ends_of(np.array([0, 1, 0, 0, 1], bool)), [2, 5])
    np.testing.assert_array_equal(ends_of(np.array([0, 1, 0], bool)), [2, 3])


def test_breaks_are_where_the_next_row_is_not_the_successor():
    observations = np.arange(6.0)[:, None]
    successors = observations + 1
    successors[2] = 9
    successors[5] = 9  # nothing follows the last row
    np.testing.assert_array_equal(np.flatnonzero(breaks(observations, successors)), [2])


def test_breaks_allow_for_rounding():
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    successors = np.concatenate([observations[1:], observations[:1]]).astype(np.float16)
    assert not breaks(observations, successors)[:-1].any()


def test_a_time_limit_counts_from_the_last_end():
    flags = np.array([0, 0, 1, 0, 0, 0, 0, 0], bool)
    np.testing.assert_array_equal(np.flatnonzero(time_limit(flags, 2)), [1, 4, 6])


def test_reasons_come_from_the_time_limit():
    ends = np.array([3, 8, 9])
    terminated, truncated = reasons(ends, 5, otherwise=False)
    np.testing.assert_array_equal(terminated, [True, False, True])
    np.testing.assert_array_equal(truncated, [False, True, False])
    terminated, truncated = reasons(ends, None, otherwise=False)
    assert not terminated.any() and not truncated.any()
