"""Splitting flat columns into episodes."""

from __future__ import annotations

import numpy as np

from lfd.data.readers.flat import end_reasons, episode_ends, find_resets, time_limit_flags


def test_episode_ends_are_exclusive_and_include_the_last_row():
    np.testing.assert_array_equal(episode_ends(np.array([0, 1, 0, 0, 1], bool)), [2, 5])
    np.testing.assert_array_equal(episode_ends(np.array([0, 1, 0], bool)), [2, 3])


def test_find_resets_where_next_row_differs_is_true():
    observations = np.arange(6.0)[:, None]
    successors = observations + 1
    successors[2] = 9
    successors[5] = 9  # nothing follows the last row
    np.testing.assert_array_equal(np.flatnonzero(find_resets(observations, successors)), [2])


def test_find_resets_within_rounding_is_false():
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    successors = np.concatenate([observations[1:], observations[:1]]).astype(np.float16)
    assert not find_resets(observations, successors)[:-1].any()


def test_time_limit_flags_count_from_the_last_end():
    flags = np.array([0, 0, 1, 0, 0, 0, 0, 0], bool)
    np.testing.assert_array_equal(np.flatnonzero(time_limit_flags(flags, 2)), [1, 4, 6])


def test_end_reasons_follow_the_time_limit():
    ends = np.array([3, 8, 9])
    terminated, truncated = end_reasons(ends, 5, default_terminated=False)
    np.testing.assert_array_equal(terminated, [True, False, True])
    np.testing.assert_array_equal(truncated, [False, True, False])
    terminated, truncated = end_reasons(ends, None, default_terminated=False)
    assert not terminated.any() and not truncated.any()
