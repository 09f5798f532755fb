from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from lfd.data import read
from lfd.errors import Refused


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
    return [(len(e), e.terminated, e.truncated, e.is_complete) for e in episodes]


def test_next_obs_are_the_final_observations(write, transitions):
    episodes = list(read(write(transitions)))
    assert ends(episodes) == [(3, True, False, True), (4, True, False, True), (2, False, False, True)]
    np.testing.assert_array_equal(episodes[1].observations[:, 0], [103, 104, 105, 106, 107])
    assert episodes[0].rewards.shape == (3,)


def test_a_done_at_the_time_limit_is_a_truncation(write, transitions):
    assert ends(read(write(transitions), max_episode_steps=4))[:2] == [(3, True, False, True), (4, False, True, True)]


def test_a_gap_cuts_an_episode(write, transitions):
    del transitions[1]
    assert ends(read(write(transitions)))[:2] == [(1, False, False, True), (1, True, False, True)]


def test_without_next_obs(write, transitions):
    for transition in transitions:
        del transition["next_obs"]
    assert ends(read(write(transitions))) == [
        (3, True, False, False),
        (4, True, False, False),
        (2, False, False, False),
    ]


def test_dict_observations(write, transitions):
    for transition in transitions:
        for key in ("obs", "next_obs"):
            transition[key] = {"state": transition[key], "goal": transition[key][:2]}
    assert next(iter(read(write(transitions)))).observations["goal"].shape == (4, 2)


def test_transitions_that_differ_in_shape_are_refused(write, transitions):
    transitions[3]["obs"] = transitions[3]["obs"][:2]
    with pytest.raises(Refused, match="not all alike"):
        list(read(write(transitions)))


def test_other_pickles_are_refused(write, transitions):
    with pytest.raises(Refused, match="no list of dicts"):
        list(read(write({"obs": 1})))
    for transition in transitions:
        del transition["reward"]
    with pytest.raises(Refused, match="no reward"):
        list(read(write(transitions)))
