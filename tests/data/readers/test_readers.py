"""Detection of a file's format; unknown formats are refused."""

from __future__ import annotations

import gymnasium as gym
import h5py
import numpy as np
import pytest

from lfd.data import Writer, read
from lfd.envs import Spaces
from lfd.envs.spaces import Words
from lfd.errors import UserError


@pytest.mark.parametrize("stack", [1, 4])
def test_read_lfd_file_gives_equal_episodes(tmp_path, vector, frames, make, stack):
    spaces = frames if stack == 4 else vector
    episodes = [make(spaces, steps, steps, stack, truncated=True, terminated=False) for steps in (3, 8)]
    writer = Writer(tmp_path / "log", spaces, stack)
    for episode in episodes:
        writer.add(episode)
    writer.finalize(tmp_path / "data.hdf5", {})
    for found, added in zip(read(tmp_path / "data.hdf5", spaces), episodes, strict=True):
        np.testing.assert_array_equal(found.observations, added.observations)
        np.testing.assert_array_equal(found.actions, added.actions)
        assert (found.truncated, found.has_final_observation) == (True, True)


def test_read_other_spaces_are_refused(tmp_path, vector, dictionary, make):
    writer = Writer(tmp_path / "log", vector)
    writer.add(make(vector, 3))
    writer.finalize(tmp_path / "data.hdf5", {})
    with pytest.raises(UserError, match="observations/image"):
        list(read(tmp_path / "data.hdf5", dictionary))


def test_read_other_words_are_refused(tmp_path, make):
    def spaces(*words):
        parts = {"mission": Words(words, 5), "number": gym.spaces.Box(0, 1, (2,), np.float32)}
        return Spaces(gym.spaces.Dict(parts), gym.spaces.Discrete(2))

    writer = Writer(tmp_path / "log", spaces("go", "to"))
    episode = make(spaces("go", "to"), 3)
    episode.observations["mission"][:] = 1
    writer.add(episode)
    writer.finalize(tmp_path / "data.hdf5", {})
    assert len(list(read(tmp_path / "data.hdf5", spaces("go", "to")))) == 1
    with pytest.raises(UserError, match=r"data.hdf5: mission: .* \(different: ball\); make the dataset again"):
        list(read(tmp_path / "data.hdf5", spaces("go", "to", "ball")))


def test_read_tianshou_buffer_is_refused(tmp_path):
    with h5py.File(tmp_path / "buffer.hdf5", "w") as file:
        file.create_dataset("_meta/obs", data=np.zeros((4, 3))).attrs["__data_type__"] = "ndarray"
        file.create_dataset("_meta/info", data=np.zeros(9, np.int8)).attrs["__data_type__"] = "pickled_ndarray"
    with pytest.raises(UserError, match="got _meta; accepted: lfd's own HDF5"):
        list(read(tmp_path / "buffer.hdf5"))


@pytest.mark.parametrize("form", ["text", "folder", "hdf5", "nothing"])
def test_read_unknown_format_is_refused_with_its_content(tmp_path, form):
    path = tmp_path / form
    if form == "text":
        path.write_text("a,b,c")
    elif form == "folder":
        path.mkdir()
        (path / "dataset_info.json").touch()
    elif form == "hdf5":
        with h5py.File(path, "w") as file:
            file["snapshots"] = np.zeros(3)
    expected = {"text": "b'a,b,c'", "folder": "dataset_info.json", "hdf5": "got snapshots", "nothing": "no such file"}
    with pytest.raises(UserError, match=expected[form]):
        list(read(path))


def test_read_damaged_hdf5_is_refused(tmp_path):
    path = tmp_path / "half.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((1000, 3))
    with path.open("r+b") as opened:
        opened.truncate(3000)
    with pytest.raises(UserError, match="damaged"):
        list(read(path))


def test_read_closes_the_file(tmp_path):
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.zeros((6, 3)), np.zeros((6, 1), np.int64)
        file["rewards"], file["terminals"] = np.zeros(6), np.array([0, 0, 1] * 2)
        file["timeouts"] = np.zeros(6)
    assert len(list(read(path))) == 2
    next(read(path))  # and who goes on no further holds nothing either
    with h5py.File(path, "a") as file:  # HDF5 refuses to write what is open for reading
        file["more"] = 1
