"""Episodes are cast to an environment's spaces without loss, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lfd.data.episode import cast_to_spaces, flatten_observations, unflatten_observations
from lfd.errors import UserError


def test_cast_to_spaces_matching_columns_are_not_copied(vector, make):
    episode = make(vector, 5)
    assert np.shares_memory(cast_to_spaces(episode, vector).observations, episode.observations)


def test_cast_to_spaces_other_dtypes_are_cast(vector, make):
    episode = make(vector, 5)
    foreign = replace(
        episode,
        observations=episode.observations.astype(np.float64),
        actions=episode.actions[:, None].astype(np.float32),
        rewards=episode.rewards.astype(np.float64)[:, None],
    )
    result = cast_to_spaces(foreign, vector)
    assert (result.observations.dtype, result.actions.dtype, result.rewards.dtype) == (np.float32, np.int64, np.float32)
    assert result.actions.shape == result.rewards.shape == (5,)
    np.testing.assert_array_equal(result.actions, episode.actions)


def test_cast_to_spaces_other_shape_is_refused(vector, make):
    episode = make(vector, 5)
    with pytest.raises(UserError, match=r"observations: expected the shape \(3,\), .* got \(2,\)"):
        cast_to_spaces(replace(episode, observations=episode.observations[:, :2]), vector)


def test_cast_to_spaces_fractional_discrete_actions_are_refused(vector, make):
    with pytest.raises(UserError, match="actions: expected int64, .* got float64"):
        cast_to_spaces(replace(make(vector, 5), actions=np.full(5, 0.5)), vector)


@pytest.mark.parametrize("column", ["rewards", "infos", "observations"])
def test_cast_to_spaces_different_lengths_are_refused(vector, make, column):
    episode = make(vector, 5)
    wrong = {"rewards": np.zeros(4, np.float32), "infos": {"x": np.zeros(4)}, "observations": episode.observations[:3]}
    with pytest.raises(UserError, match=column):
        cast_to_spaces(replace(episode, **{column: wrong[column]}), vector)


def test_cast_to_spaces_missing_key_is_refused_and_extra_is_dropped(dictionary, make):
    episode = make(dictionary, 3)
    episode.observations["mission"] = np.zeros(4)
    assert set(cast_to_spaces(episode, dictionary).observations) == {"image", "side"}
    del episode.observations["side"]
    with pytest.raises(UserError, match="observations/side"):
        cast_to_spaces(episode, dictionary)


def test_flatten_observations_round_trip_is_equal(dictionary, make):
    observations = make(dictionary, 3).observations
    assert list(flatten_observations(observations)) == ["observations/image", "observations/side"]
    assert unflatten_observations(flatten_observations(observations)) == observations
