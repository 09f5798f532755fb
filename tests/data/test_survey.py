"""Spaces that are inferred from a file, and the data that is noted or refused before an import."""

from __future__ import annotations

import json

import gymnasium as gym
import h5py
import numpy as np
import pytest

from lfd.data import Writer
from lfd.data.survey import survey
from lfd.envs.spaces import Spaces
from lfd.errors import UserError


def described(*given, **asked):
    return survey(*given, **asked)[0]


def d4rl(path, observations, actions, **columns):
    count = len(actions)
    with h5py.File(path, "w") as file:
        given = {"rewards": np.ones(count), "terminals": np.zeros(count, bool), "timeouts": np.zeros(count, bool)}
        for name, column in (given | columns | {"observations": observations, "actions": actions}).items():
            file[name] = column
    return path


def baselines(path, actions, starts=(0, 5)):
    first = np.zeros(len(actions), bool)
    first[list(starts)] = True
    arrays = {"obs": np.zeros((len(actions), 3)), "rewards": np.ones(len(actions)), "episode_starts": first}
    np.savez(path, actions=actions, **arrays)
    return path


@pytest.mark.parametrize("stack", [1, 4])
def test_survey_of_lfd_file_uses_declared_spaces(tmp_path, vector, frames, make, stack):
    spaces = frames if stack == 4 else vector
    writer = Writer(tmp_path / "log", spaces, stack)
    writer.add(make(spaces, 3, stack=stack))
    writer.finalize(tmp_path / "data.hdf5", {})
    found = described(tmp_path / "data.hdf5")
    assert (found.spaces, found.stack, found.has_end_flags) == (spaces, stack, True)


@pytest.mark.parametrize(
    ("actions", "low", "high"),
    [
        ([[0.2, -0.9], [0.5, 0.1]], [-1, -1], [1, 1]),
        ([[-2.0, -0.9], [1.5, 0.1]], [-2, -0.9], [1.5, 0.1]),
        ([[2.0, 3.0], [1.5, 3.0]], [1.5, 2], [2, 4]),
    ],
)
def test_survey_continuous_actions_infers_bounds(tmp_path, actions, low, high):
    found = described(d4rl(tmp_path / "a.hdf5", np.zeros((2, 4), np.float32), np.array(actions, np.float32)))
    box = gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    assert found.spaces == Spaces(gym.spaces.Box(-np.inf, np.inf, (4,)), box)


def test_survey_whole_numbers_are_discrete_actions(tmp_path):
    found = described(baselines(tmp_path / "a.npz", np.array([[0], [2], [1]] * 3), (0, 4)))
    assert found.spaces.action == gym.spaces.Discrete(3)


@pytest.mark.parametrize("actions", [[[0, 1], [1, 1]], [[-1], [1]]])
def test_survey_unsupported_actions_are_refused(tmp_path, actions):
    with pytest.raises(UserError, match="which no algorithm supports"):
        described(baselines(tmp_path / "a.npz", np.array(actions), (0,)))


def test_survey_infers_pixels_discrete_and_vector_observations(tmp_path):
    actions = np.zeros((3, 1), np.float32)
    cases = {
        "pixels": (np.zeros((3, 8, 8, 3), np.uint8), gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)),
        "count": (np.array([0, 6, 2]), gym.spaces.Discrete(7)),
        "vector": (np.zeros((3, 2)), gym.spaces.Box(-np.inf, np.inf, (2,))),
    }
    for name, (observations, space) in cases.items():
        assert described(d4rl(tmp_path / name, observations, actions)).spaces.observation == space


def test_survey_has_end_flags_depends_on_file_and_time_limit(tmp_path):
    path = baselines(tmp_path / "a.npz", np.zeros((9, 1), int))
    assert not described(path).has_end_flags and described(path, max_episode_steps=5).has_end_flags
    ends = np.array([False, True, False])
    told = d4rl(tmp_path / "b.hdf5", np.zeros((3, 2)), np.zeros((3, 1), np.float32), timeouts=ends)
    assert described(told).has_end_flags


def test_survey_of_changed_file_is_made_again(tmp_path):
    path = tmp_path / "a.npz"
    assert described(baselines(path, np.zeros((9, 1), int))).spaces.action.n == 1
    assert described(baselines(path, np.full((19, 1), 4))).spaces.action.n == 5


def test_survey_of_file_without_episodes_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        described(tmp_path / "nowhere")


def test_survey_outlier_and_constant_dimension_are_noted(tmp_path):
    draw = np.random.default_rng(0)
    observations = draw.normal(size=(3000, 3)).astype(np.float32)
    observations[1234, 2] = 800.0
    observations[:, 1] = 5 + 1e-7 * observations[:, 1]
    path = d4rl(
        tmp_path / "a.hdf5", observations, np.zeros((3000, 1), np.float32), timeouts=np.arange(3000) % 100 == 99
    )
    far, still = described(path).notes
    assert far.startswith(
        "a.hdf5: observations[2] of episode 12, step 34 is 800, where nearly all values lie from -2.99"
    )
    assert still.startswith("a.hdf5: observations[1] hardly varies (mean 5, standard deviation")


def test_survey_ordinary_data_has_no_notes(tmp_path):
    draw = np.random.default_rng(0)
    path = d4rl(tmp_path / "a.hdf5", draw.standard_t(3, size=(3000, 2)), draw.uniform(-1, 1, (3000, 1)))
    assert described(path).notes == []


@pytest.mark.parametrize(("excess", "is_refused"), [(1e-7, False), (5e-4, False), (2e-3, True)])
def test_survey_actions_beyond_bounds_by_rounding_are_accepted(tmp_path, excess, is_refused):
    spaces = Spaces(gym.spaces.Box(-np.inf, np.inf, (4,)), gym.spaces.Box(-1, 1, (1,)))
    path = d4rl(
        tmp_path / "a.hdf5", np.eye(3, 4) @ np.ones((4, 4)) * [[1], [2], [3]], np.array([[0.5], [-1 - excess], [1.0]])
    )
    if not is_refused:
        assert survey(path, spaces)[0].notes == []
        return
    with pytest.raises(UserError, match="1 of 3 actions lie beyond the bounds"):
        survey(path, spaces)
    assert "1 of 3 actions lie beyond the bounds and are clipped" in survey(path, spaces, clip_actions=True)[0].notes[0]


def test_survey_json_round_trip_is_equal(tmp_path):
    found = described(d4rl(tmp_path / "a.hdf5", np.zeros((9, 2)), np.zeros((9, 1), np.float32)))
    assert type(found).from_json(json.loads(json.dumps(found.to_json()))) == found


def test_survey_large_file_is_not_held_in_memory(tmp_path, monkeypatch):
    path = d4rl(tmp_path / "a.hdf5", np.zeros((9, 2)), np.zeros((9, 1), np.float32))
    monkeypatch.setattr("lfd.data.survey._MAX_HELD_BYTES", 100)
    assert survey(path)[1] is None
