"""Reading DI-engine's pickles and HDF5 files: episode ends, final observations, refused content."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch

from lfd.data import read
from lfd.errors import UserError


@pytest.fixture
def transitions():
    """Episodes of 3 and 4 steps that are done, and one of 2 that is not."""
    found, row = [], 0
    for steps, done in ((3, True), (4, True), (2, False)):
        for step in range(steps):
            found.append(
                {
                    "obs": torch.full((4,), float(row)),
                    "next_obs": torch.full((4,), float(row + 1)),
                    "action": torch.tensor([row % 2]),
                    "reward": torch.tensor([1.0]),
                    "done": done and step == steps - 1,
                    "collect_iter": 0,
                }
            )
            row += 1
        row += 100
    return found


@pytest.fixture
def write(tmp_path):
    def build(value):
        (tmp_path / "expert.pkl").write_bytes(pickle.dumps(value))
        return tmp_path / "expert.pkl"

    return build


def ends(episodes):
    return [(len(e), e.terminated, e.truncated, e.has_final_observation) for e in episodes]


def test_read_di_engine_next_obs_give_final_observations(write, transitions):
    episodes = list(read(write(transitions)))
    assert ends(episodes) == [(3, True, False, True), (4, True, False, True), (2, False, False, True)]
    np.testing.assert_array_equal(episodes[1].observations[:, 0], [103, 104, 105, 106, 107])
    assert episodes[0].rewards.shape == (3,)


def test_read_di_engine_done_at_time_limit_is_truncation(write, transitions):
    assert ends(read(write(transitions), max_episode_steps=4))[:2] == [(3, True, False, True), (4, False, True, True)]


def test_read_di_engine_gap_cuts_the_episode(write, transitions):
    del transitions[1]
    assert ends(read(write(transitions)))[:2] == [(1, False, False, True), (1, True, False, True)]


def test_read_di_engine_without_next_obs_has_no_final_observations(write, transitions):
    for transition in transitions:
        del transition["next_obs"]
    assert ends(read(write(transitions))) == [
        (3, True, False, False),
        (4, True, False, False),
        (2, False, False, False),
    ]


def test_read_di_engine_dict_observations_are_read(write, transitions):
    for transition in transitions:
        for key in ("obs", "next_obs"):
            transition[key] = {"state": transition[key], "goal": transition[key][:2]}
    assert next(iter(read(write(transitions)))).observations["goal"].shape == (4, 2)


def test_read_di_engine_different_shapes_are_refused(write, transitions):
    transitions[3]["obs"] = transitions[3]["obs"][:2]
    with pytest.raises(UserError, match="expected the same keys and shapes in all transitions"):
        list(read(write(transitions)))


def test_read_di_engine_other_content_is_refused(write, transitions):
    with pytest.raises(UserError, match="expected a list of dicts"):
        list(read(write({"obs": 1})))
    for transition in transitions:
        del transition["reward"]
    with pytest.raises(UserError, match="expected reward in each transition"):
        list(read(write(transitions)))


def test_read_di_engine_list_of_episodes_is_read(write, transitions):
    nested = [transitions[:3], transitions[3:5], transitions[5:7], transitions[7:]]
    for transition in transitions:
        del transition["next_obs"]
    assert [length for length, *_ in ends(read(write(nested)))] == [3, 2, 2, 2]


@pytest.fixture
def hdf5(tmp_path, transitions):
    """What DI-engine's `hdf5_save` writes: gzipped columns with the names of its transitions."""

    def build(*lacking, **changed):
        path = tmp_path / "expert_demos.hdf5"
        with h5py.File(path, "w") as file:
            for name in {"obs", "action", "reward", "done", "next_obs"} - set(lacking):
                column = np.array([np.asarray(one[name]) for one in transitions])
                file.create_dataset(name, data=changed.get(name, column), compression="gzip")
        return path

    return build


def test_read_di_engine_hdf5_equals_the_pickle(hdf5, write, transitions):
    for one, other in zip(read(hdf5()), read(write(transitions)), strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        assert (one.terminated, one.truncated) == (other.terminated, other.truncated)


def test_read_di_engine_hdf5_without_next_obs_has_no_final_observations(hdf5):
    assert ends(read(hdf5("next_obs"), max_episode_steps=4)) == [
        (3, True, False, False),
        (4, False, True, False),
        (2, False, False, False),
    ]


def test_read_di_engine_hdf5_bad_column_is_refused(hdf5):
    with pytest.raises(UserError, match="got action, next_obs, obs, reward;"):
        list(read(hdf5("done")))
    with pytest.raises(UserError, match="9 obs, 5 action"):
        list(read(hdf5(action=np.zeros((5, 1), np.int64))))
    with pytest.raises(UserError, match="reward: expected numbers, got"):
        list(read(hdf5(reward=np.array([b"1"] * 9))))
    with pytest.raises(UserError, match="5 next_obs"):
        list(read(hdf5(next_obs=np.zeros((5, 4)))))
