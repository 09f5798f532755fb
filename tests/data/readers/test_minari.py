from __future__ import annotations

import json

import gymnasium as gym
import h5py
import numpy as np
import pytest

from lfd.data import read
from lfd.envs.spaces import Spaces
from lfd.errors import Refused


@pytest.fixture
def folder(tmp_path):
    """`minari`'s layout, 0.5: eleven episodes of 1 to 11 steps; chunked columns, dict observations, a nested key."""
    data = tmp_path / "mujoco" / "hopper" / "expert-v0" / "data"
    data.mkdir(parents=True)
    metadata = {"total_episodes": 11, "data_format": "hdf5", "minari_version": "0.5.1", "dataset_id": "hopper/expert"}
    (data / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
        for index in range(11):
            steps, group = index + 1, file.create_group(f"episode_{index}")
            group.attrs["id"], group.attrs["total_steps"] = index, steps
            rows = np.full((steps + 1, 3), index, np.float64)
            group.create_dataset("observations/state", data=rows, chunks=True, maxshape=(None, 3))
            group.create_dataset("observations/goal/position", data=rows[:, :2])
            group.create_dataset("observations/mission", data=["go"] * (steps + 1))
            group["actions"] = np.zeros((steps, 2), np.float32)
            group["rewards"] = np.arange(steps, dtype=np.float64)
            group["terminations"] = np.arange(steps) == (steps - 1 if index % 2 == 0 else -1)
            group["truncations"] = np.arange(steps) == (steps - 1 if index % 2 else -1)
            group["infos/success"] = np.arange(steps + 1)
    return data.parent


@pytest.fixture
def spaces():
    observation = gym.spaces.Dict(
        {"state": gym.spaces.Box(-99, 99, (3,)), "goal_position": gym.spaces.Box(-99, 99, (2,))}
    )
    return Spaces(observation, gym.spaces.Box(-1, 1, (2,)))


def test_episodes_come_in_the_order_of_their_numbers(folder, spaces):
    episodes = list(read(folder, spaces))
    assert [len(episode) for episode in episodes] == list(range(1, 12))
    assert all(episode.is_complete for episode in episodes)
    assert [episode.terminated for episode in episodes] == [index % 2 == 0 for index in range(11)]
    assert [episode.truncated for episode in episodes] == [index % 2 == 1 for index in range(11)]
    assert set(episodes[10].observations) == {"state", "goal_position"}
    assert episodes[10].observations["state"].dtype == np.float32
    assert (episodes[10].observations["goal_position"] == 10).all()


def test_the_info_of_the_reset_is_left_out(folder, spaces):
    np.testing.assert_array_equal(list(read(folder, spaces))[3].infos["success"], [1, 2, 3, 4])


@pytest.mark.parametrize("inside", ["data", "data/main_data.hdf5"])
def test_the_inner_folder_and_file_are_taken_too(folder, spaces, inside):
    assert len(list(read(folder / inside, spaces))) == 11


def test_text_is_refused_by_name_where_nobody_chose_the_keys(folder):
    with pytest.raises(Refused, match="observations/mission holds object"):
        list(read(folder))


def test_a_missing_key_is_refused_with_the_nearest(folder, spaces):
    spaces.observation.spaces["goal_positions"] = spaces.observation.spaces.pop("goal_position")
    with pytest.raises(Refused, match="did you mean 'goal_position'"):
        list(read(folder, spaces))


def test_older_files_have_no_metadata(folder, spaces):
    (folder / "data" / "metadata.json").unlink()
    assert len(list(read(folder, spaces))) == 11


def test_other_storages_are_refused(folder, spaces):
    (folder / "data" / "metadata.json").write_text(json.dumps({"data_format": "arrow"}))
    with pytest.raises(Refused, match="as arrow"):
        list(read(folder, spaces))


def test_a_pointer_of_git_lfs_is_refused_with_the_way_out(folder, spaces):
    (folder / "data" / "main_data.hdf5").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(Refused, match="git lfs pull"):
        list(read(folder, spaces))


def test_observations_without_a_final_row(folder, spaces):
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for key in ("state", "goal/position"):
            rows = file[f"episode_4/observations/{key}"][:-1]
            del file[f"episode_4/observations/{key}"]
            file[f"episode_4/observations/{key}"] = rows
    assert [index for index, episode in enumerate(read(folder, spaces)) if not episode.is_complete] == [4]
