from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lfd.data.episode import conform, flatten, unflatten
from lfd.errors import Refused


def test_conform_does_not_copy_what_fits(vector, make):
    episode = make(vector, 5)
    assert np.shares_memory(conform(episode, vector).observations, episode.observations)


def test_conform_casts_to_the_spaces(vector, make):
    episode = make(vector, 5)
    foreign = replace(
        episode,
        observations=episode.observations.astype(np.float64),
        actions=episode.actions[:, None].astype(np.float32),
        rewards=episode.rewards.astype(np.float64)[:, None],
    )
    result = conform(foreign, vector)
    assert (result.observations.dtype, result.actions.dtype, result.rewards.dtype) == (np.float32, np.int64, np.float32)
    assert result.actions.shape == result.rewards.shape == (5,)
    np.testing.assert_array_equal(result.actions, episode.actions)


def test_a_shape_that_is_not_the_environments_is_refused(vector, make):
    episode = make(vector, 5)
    with pytest.raises(Refused, match=r"observations have shape \(2,\), but the environment has \(3,\)"):
        conform(replace(episode, observations=episode.observations[:, :2]), vector)


def test_fractional_actions_are_no_discrete_actions(vector, make):
    with pytest.raises(Refused, match="actions are float64"):
        conform(replace(make(vector, 5), actions=np.full(5, 0.5)), vector)


@pytest.mark.parametrize("column", ["rewards", "infos", "observations"])
def test_lengths_that_disagree_are_refused(vector, make, column):
    episode = make(vector, 5)
    wrong = {"rewards": np.zeros(4, np.float32), "infos": {"x": np.zeros(4)}, "observations": episode.observations[:3]}
    with pytest.raises(Refused, match=column):
        conform(replace(episode, **{column: wrong[column]}), vector)


def test_a_missing_key_is_refused_and_an_additional_one_is_left_out(dictionary, make):
    episode = make(dictionary, 3)
    episode.observations["mission"] = np.zeros(4)
    assert set(conform(episode, dictionary).observations) == {"image", "side"}
    del episode.observations["side"]
    with pytest.raises(Refused, match="observations/side"):
        conform(episode, dictionary)


def test_flatten_and_back(dictionary, make):
    observations = make(dictionary, 3).observations
    assert list(flatten(observations)) == ["observations/image", "observations/side"]
    assert unflatten(flatten(observations)) == observations
