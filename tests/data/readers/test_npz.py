"""Reading npz archives of stable-baselines 2 and imitation."""

from __future__ import annotations

import numpy as np
import pytest

from lfd.data import read
from lfd.errors import UserError

LENGTHS = (3, 5, 2)


@pytest.fixture
def baselines(tmp_path):
    starts = np.zeros(10, bool)
    starts[[0, 3, 8]] = True
    arrays = {
        "obs": np.arange(40, dtype=np.float32).reshape(10, 4),
        "actions": np.arange(10)[:, None] % 2,
        "rewards": np.ones(10),
        "episode_returns": np.array(LENGTHS, float),
        "episode_starts": starts,
    }
    np.savez(tmp_path / "expert.npz", **arrays)
    return tmp_path / "expert.npz"


@pytest.fixture
def imitation(tmp_path):
    def build(**changed):
        arrays = {
            "obs": np.arange(52, dtype=np.float32).reshape(13, 4),
            "acts": np.arange(10) % 2,
            "rews": np.arange(10.0),
            "terminal": np.array([True, True, False]),
            "indices": np.array([3, 8]),
            "infos": np.array([{"any": "thing"}] * 10, object),
        }
        np.savez(tmp_path / "final.npz", **(arrays | changed))
        return tmp_path / "final.npz"

    return build


def test_read_npz_baselines_has_no_final_observations(baselines):
    episodes = list(read(baselines))
    assert [len(episode) for episode in episodes] == list(LENGTHS)
    assert not any(episode.has_final_observation or episode.terminated or episode.truncated for episode in episodes)
    np.testing.assert_array_equal(episodes[1].observations[:, 0], [12, 16, 20, 24, 28])


def test_read_npz_time_limit_separates_terminations(baselines):
    episodes = list(read(baselines, max_episode_steps=5))
    assert [(episode.terminated, episode.truncated) for episode in episodes] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def test_read_npz_imitation_has_final_observations(imitation):
    episodes = list(read(imitation()))
    assert [len(episode) for episode in episodes] == list(LENGTHS)
    assert all(episode.has_final_observation for episode in episodes)
    np.testing.assert_array_equal(np.concatenate([e.observations[:, 0] for e in episodes]), np.arange(0, 52, 4))
    np.testing.assert_array_equal(episodes[1].rewards, [3, 4, 5, 6, 7])


def test_read_npz_imitation_terminal_at_time_limit_is_truncation(imitation):
    found = [(e.terminated, e.truncated) for e in read(imitation(), max_episode_steps=5)]
    assert found == [(True, False), (False, True), (False, False)]  # the last was still running
    assert not any(e.terminated or e.truncated for e in read(imitation()))


def test_read_npz_array_of_objects_is_refused(imitation):
    with pytest.raises(UserError, match="acts: expected numbers, got a pickled object array"):
        list(read(imitation(acts=np.array([object()] * 10))))


def test_read_npz_unknown_archive_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(UserError, match="expected .* got weights"):
        list(read(tmp_path / "other.npz"))


def test_read_npz_damaged_archive_is_refused(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(UserError, match="damaged"):
        list(read(tmp_path / "bad.npz"))
