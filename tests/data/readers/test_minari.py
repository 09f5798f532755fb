"""Reading Minari's folders: declared spaces, images, discrete values, refused columns."""

from __future__ import annotations

import io
import json

import gymnasium as gym
import h5py
import numpy as np
import pytest
from PIL import Image

from lfd.data import read
from lfd.data.episode import cast_to_spaces
from lfd.data.survey import survey
from lfd.envs.spaces import Spaces, simplify_spaces
from lfd.errors import UserError


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


def test_read_minari_episodes_are_in_order_of_their_ids(folder, spaces):
    episodes = list(read(folder, spaces))
    assert [len(episode) for episode in episodes] == list(range(1, 12))
    assert all(episode.has_final_observation for episode in episodes)
    assert [episode.terminated for episode in episodes] == [index % 2 == 0 for index in range(11)]
    assert [episode.truncated for episode in episodes] == [index % 2 == 1 for index in range(11)]
    assert set(episodes[10].observations) == {"state", "goal_position"}
    assert episodes[10].observations["state"].dtype == np.float32
    assert (episodes[10].observations["goal_position"] == 10).all()


def test_read_minari_info_of_the_reset_is_dropped(folder, spaces):
    np.testing.assert_array_equal(list(read(folder, spaces))[3].infos["success"], [1, 2, 3, 4])


@pytest.mark.parametrize("inside", ["data", "data/main_data.hdf5"])
def test_read_minari_inner_folder_and_file_are_accepted(folder, spaces, inside):
    assert len(list(read(folder / inside, spaces))) == 11


def test_read_minari_text_column_without_keys_is_refused(folder):
    with pytest.raises(UserError, match="observations/mission: expected numbers, got object"):
        list(read(folder))


def test_read_minari_missing_key_suggests_the_nearest(folder, spaces):
    spaces.observation.spaces["goal_positions"] = spaces.observation.spaces.pop("goal_position")
    with pytest.raises(UserError, match="did you mean 'goal_position'"):
        list(read(folder, spaces))


def test_read_minari_without_metadata_is_read(folder, spaces):
    (folder / "data" / "metadata.json").unlink()
    assert len(list(read(folder, spaces))) == 11


def test_minari_file_other_storage_is_refused(folder, spaces):
    (folder / "data" / "metadata.json").write_text(json.dumps({"data_format": "arrow"}))
    with pytest.raises(UserError, match="got arrow"):
        list(read(folder, spaces))


def test_read_git_lfs_pointer_names_the_command(folder, spaces):
    (folder / "data" / "main_data.hdf5").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(UserError, match="git lfs pull"):
        list(read(folder, spaces))


def test_read_minari_without_final_row_has_no_final_observation(folder, spaces):
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for key in ("state", "goal/position"):
            rows = file[f"episode_4/observations/{key}"][:-1]
            del file[f"episode_4/observations/{key}"]
            file[f"episode_4/observations/{key}"] = rows
    assert [index for index, episode in enumerate(read(folder, spaces)) if not episode.has_final_observation] == [4]


# What the metadata name


def described(space):
    """As Minari serialises it."""
    if isinstance(space, gym.spaces.Dict):
        return {"type": "Dict", "subspaces": {key: described(part) for key, part in space.spaces.items()}}
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)}
    if isinstance(space, gym.spaces.Tuple):
        return {"type": "Tuple", "subspaces": [described(part) for part in space.spaces]}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    low, high = space.low.tolist(), space.high.tolist()
    return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), "low": low, "high": high}


@pytest.fixture
def written(tmp_path):
    """A folder of two episodes of four steps with these spaces in its metadata, or (before 0.5) in the file itself."""

    def write(observation, action, observations, actions, older=False):
        data = tmp_path / "set" / "data"
        data.mkdir(parents=True)
        metadata = {
            "observation_space": json.dumps(described(observation)),
            "action_space": json.dumps(described(action)),
        }
        if not older:
            (data / "metadata.json").write_text(json.dumps(metadata | {"data_format": "hdf5", "jpeg_encoding": True}))
        with h5py.File(data / "main_data.hdf5", "w") as file:
            file.attrs.update(metadata if older else {})
            for index in range(2):
                group = file.create_group(f"episode_{index}")
                for name, column in (observations if isinstance(observations, dict) else {"": observations}).items():
                    at = f"observations/{name}".strip("/")
                    if isinstance(column, list):
                        group.create_dataset(at, (len(column),), h5py.vlen_dtype(np.uint8))
                        for row, one in enumerate(column):
                            group[at][row] = one
                    else:
                        group[at] = column
                group["actions"], group["rewards"] = actions, np.ones(4)
                group["terminations"], group["truncations"] = np.arange(4) == 3, np.zeros(4, bool)
        return data.parent

    return write


BOX = gym.spaces.Box(-np.inf, np.inf, (3,))


@pytest.mark.parametrize("older", [False, True])
def test_minari_spaces_declared_bounds_are_used(written, older):
    action = gym.spaces.Box(np.array([-0.4, -2], np.float32), np.array([0.4, 2], np.float32))
    path = written(BOX, action, np.zeros((5, 3)), np.full((4, 2), 0.3), older)
    assert survey(path)[0].spaces == Spaces(BOX, action)


def test_minari_spaces_declared_discrete_sizes_are_used(written):
    path = written(gym.spaces.Discrete(30), gym.spaces.Discrete(5), np.arange(5), np.array([0, 1, 2, 1]))
    assert survey(path)[0].spaces == Spaces(gym.spaces.Discrete(30), gym.spaces.Discrete(5))


def test_read_minari_discrete_values_are_shifted_to_0(written):
    observation = gym.spaces.Dict({"place": gym.spaces.Discrete(9, start=-2), "vector": BOX})
    seen = {"place": np.arange(5) - 2, "vector": np.zeros((5, 3))}
    path = written(observation, gym.spaces.Discrete(3, start=1), seen, np.array([1, 3, 2, 1]))
    found, episodes = survey(path)
    assert found.spaces.action == gym.spaces.Discrete(3)
    assert found.spaces.observation["place"] == gym.spaces.Discrete(9)
    assert episodes[0].actions.tolist() == [0, 2, 1, 0] and episodes[0].observations["place"].tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert "the file counts them from 1" in found.notes[0]


TUPLE = gym.spaces.Tuple([gym.spaces.Discrete(32), gym.spaces.MultiDiscrete([3, 4])])


def test_read_minari_tuple_has_the_keys_of_its_environment(written):
    """Minari stores the parts of a Tuple as `_index_0`, `_index_1`, …."""
    hands, cards = np.arange(5), np.array([[0, 0], [2, 3], [1, 1], [0, 3], [2, 0]])
    path = written(TUPLE, gym.spaces.Discrete(2), {"_index_0": hands, "_index_1": cards}, np.array([0, 1, 1, 0]))
    found, episodes = survey(path)
    assert found.spaces == simplify_spaces(TUPLE, gym.spaces.Discrete(2), "x")
    for episode in (episodes[0], next(read(path, found.spaces))):
        assert sorted(episode.observations) == ["0", "1"]
        assert (episode.observations["1"] == cards).all() and (episode.observations["0"] == hands).all()


def test_read_minari_index_beyond_its_space_is_refused(written):
    seen = {"_index_0": np.arange(5), "_index_1": np.full((5, 2), 3)}
    path = written(TUPLE, gym.spaces.Discrete(2), seen, np.array([0, 1, 1, 0]))
    episode = next(read(path))
    with pytest.raises(UserError, match=r"observations/1: expected indices of Indices\(\[3, 4\]\), got larger ones"):
        cast_to_spaces(episode, simplify_spaces(TUPLE, gym.spaces.Discrete(2), "x"))


def test_survey_minari_actions_beyond_bounds_are_refused(written):
    path = written(BOX, gym.spaces.Box(-0.4, 0.4, (1,)), np.zeros((5, 3)), np.full((4, 1), 0.6))
    with pytest.raises(UserError, match="8 of 8 actions lie beyond the bounds"):
        survey(path)


def jpeg(frame):
    made = io.BytesIO()
    Image.fromarray(frame).save(made, format="JPEG")
    return np.frombuffer(made.getvalue(), np.uint8)


@pytest.mark.parametrize("in_dict", [False, True])
@pytest.mark.parametrize("equal", [False, True])
def test_read_minari_jpeg_images_are_decoded(written, equal, in_dict):
    smooth = (np.indices((40, 48, 3)).sum(0) * 2).astype(np.uint8)
    frames = [smooth if equal else (smooth // (index + 1)).astype(np.uint8) for index in range(5)]
    stored = [jpeg(frame) for frame in frames]
    assert (len({len(one) for one in stored}) == 1) == equal
    column = np.stack(stored) if equal else stored  # Minari makes a plain matrix of rows of one length
    image = gym.spaces.Box(0, 255, (40, 48, 3), np.uint8)
    observation = gym.spaces.Dict({"image": image}) if in_dict else image
    path = written(observation, gym.spaces.Discrete(2), {"image": column} if in_dict else column, np.zeros(4, int))
    found, episodes = survey(path)
    assert found.spaces.observation == observation
    seen = episodes[1].observations["image"] if in_dict else episodes[1].observations
    assert seen.shape == (5, 40, 48, 3) and np.abs(seen.astype(int) - np.stack(frames)).mean() < 4


def test_survey_infos_of_some_episodes_only_are_dropped(folder, spaces):
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_3/infos/time"] = np.zeros(4)
        file["episode_4/infos/time"] = np.zeros((5, 2))
    assert survey(folder, spaces)[0].infos == ["success"]


def test_survey_minari_infinite_bounds_are_inferred(written):
    action = gym.spaces.Box(np.array([-np.inf, -3], np.float32), np.array([np.inf, 3], np.float32))
    actions = np.array([[5.0, 0], [-4, 1], [0, 0], [0, 0]])
    found = survey(written(BOX, action, np.zeros((5, 3)), actions), select=lambda episodes: iter([next(episodes)]))[0]
    assert (found.spaces.action.low.tolist(), found.spaces.action.high.tolist()) == ([-4, -3], [5, 3])
