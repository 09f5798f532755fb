"""Published datasets: rows, stacked frames and next observations stay inside their episodes; bad files are refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lfd.data import Dataset, Writer
from lfd.errors import UserError

LENGTHS = (5, 1, 7)


@pytest.fixture
def publish(tmp_path):
    def build(spaces, episodes, stack=1):
        writer = Writer(tmp_path / "log", spaces, stack)
        for episode in episodes:
            writer.add(episode)
        writer.finalize(tmp_path / "data.hdf5", {})
        return Dataset.open(tmp_path / "data.hdf5")

    return build


@pytest.fixture
def episodes(vector, make):
    return [make(vector, steps, seed) for seed, steps in enumerate(LENGTHS)]


def test_dataset_rows_belong_to_their_episodes(publish, vector, episodes):
    dataset = publish(vector, episodes)
    assert len(dataset) == 13
    np.testing.assert_array_equal(dataset.starts, [0, 5, 6])
    np.testing.assert_array_equal(dataset.ends, [5, 6, 13])
    np.testing.assert_array_equal(dataset.episode_of(np.array([12, 4, 5, 6])), [2, 0, 1, 2])
    assert dataset.spaces == vector
    assert dataset.nbytes == 13 * (12 + 8 + 4 + 1 + 1) + 3 * 12


def test_next_observations_stay_in_the_episode(publish, vector, episodes):
    dataset = publish(vector, episodes)
    rows = np.random.default_rng(0).permutation(13)
    before = np.concatenate([episode.observations[:-1] for episode in episodes])
    after = np.concatenate([episode.observations[1:] for episode in episodes])
    np.testing.assert_array_equal(dataset.observations(rows), before[rows])
    np.testing.assert_array_equal(dataset.next_observations(rows), after[rows])


def test_observations_stacked_frames_equal_the_environments(publish, frames, make):
    episodes = [make(frames, steps, seed, stack=4) for seed, steps in enumerate(LENGTHS)]
    dataset = publish(frames, episodes, stack=4)
    assert dataset.columns["observations"].shape == (13, 6, 5)  # each frame once
    row = 0
    for episode in episodes:
        padded = np.concatenate([np.repeat(episode.observations[:1], 3, axis=0), episode.observations])
        for step in range(len(episode)):
            np.testing.assert_array_equal(dataset.observations(np.array([row]))[0], padded[step : step + 4])
            np.testing.assert_array_equal(dataset.next_observations(np.array([row]))[0], padded[step + 1 : step + 5])
            row += 1


def test_observations_of_dict_space_are_dicts(publish, dictionary, make):
    episodes = [make(dictionary, steps, seed) for seed, steps in enumerate(LENGTHS)]
    dataset = publish(dictionary, episodes)
    rows = np.arange(13)
    for key in ("image", "side"):
        after = np.concatenate([episode.observations[key][1:] for episode in episodes])
        np.testing.assert_array_equal(dataset.next_observations(rows)[key], after)


def test_dataset_columns_are_mapped_read_only(publish, vector, episodes):
    dataset = publish(vector, episodes)
    with pytest.raises(ValueError, match="read-only"):
        dataset.columns["rewards"][0] = 1


def test_episode_equals_the_added_one(publish, vector, make):
    added = make(vector, 6, terminated=False, truncated=True, infos={"x": np.arange(6)})
    found = publish(vector, [make(vector, 2, 1, infos={"x": np.arange(2)}), added]).episode(1)
    np.testing.assert_array_equal(found.observations, added.observations)
    np.testing.assert_array_equal(found.infos["x"], added.infos["x"])
    assert (found.terminated, found.truncated, found.has_final_observation) == (False, True, True)


def test_open_other_file_is_refused(tmp_path, publish, vector, episodes):
    with pytest.raises(UserError, match="does not exist"):
        Dataset.open(tmp_path / "nothing.hdf5")
    (tmp_path / "text.hdf5").write_text("not HDF5")
    with pytest.raises(UserError, match="not written by lfd"):
        Dataset.open(tmp_path / "text.hdf5")
    publish(vector, episodes)
    with h5py.File(tmp_path / "data.hdf5", "a") as file:
        file.attrs["format"] = 2
    with pytest.raises(UserError, match="expected format 1, got 2"):
        Dataset.open(tmp_path / "data.hdf5")


def test_verify_changed_byte_is_refused(tmp_path, publish, vector, episodes):
    data = publish(vector, episodes)
    data.verify()
    path = tmp_path / "data.hdf5"
    content = bytearray(path.read_bytes())
    content[content.index(data.columns["rewards"].tobytes()) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="differs from its metadata"):
        Dataset.open(path).verify()


def test_open_foreign_metadata_is_refused_and_missing_is_computed(tmp_path, publish, vector, episodes):
    metadata = publish(vector, episodes).metadata
    (tmp_path / "metadata.json").write_text(json.dumps(metadata | {"transitions": 12}))
    with pytest.raises(UserError, match="metadata.json does not describe"):
        Dataset.open(tmp_path / "data.hdf5")
    for damage, what in (
        ("{", "expected JSON, got a damaged file"),
        ("[]", "it holds no object"),
        ("{}", "'transitions' is missing"),
    ):
        (tmp_path / "metadata.json").write_text(damage)
        with pytest.raises(UserError, match=what):
            Dataset.open(tmp_path / "data.hdf5")
    (tmp_path / "metadata.json").write_text(json.dumps(metadata | {"columns": {}}))
    with pytest.raises(UserError, match="metadata.json does not describe"):
        Dataset.open(tmp_path / "data.hdf5")
    (tmp_path / "metadata.json").unlink()
    assert Dataset.open(tmp_path / "data.hdf5").metadata == metadata
    (tmp_path / "passport.json").touch()
    with pytest.raises(UserError, match="passport.json is called metadata.json in this version"):
        Dataset.open(tmp_path / "data.hdf5")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells whose pages are whose")
def test_dataset_pages_are_shared_between_processes(publish, frames, make):
    path = publish(frames, [make(frames, 20_000, 0, stack=4)], stack=4).path
    program = (
        "import sys; from pathlib import Path; from lfd.data import Dataset\n"
        "data = Dataset.open(Path(sys.argv[1])); int(data.columns['observations'].sum())\n"
        "print('read', flush=True); sys.stdin.read()"
    )
    readers = [
        subprocess.Popen([sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        assert [reader.stdout.readline() for reader in readers] == [b"read\n"] * 2
        for reader in readers:
            assert _mapped(reader.pid, path, "Shared") > 20_000 * 30 > 10 * _mapped(reader.pid, path, "Private")
    finally:
        for reader in readers:
            reader.communicate()


def _mapped(process, path, whose):
    """Bytes of a file in a process's memory that are "Shared" with others or "Private"."""
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{process}/smaps").read_text(), flags=re.MULTILINE)
    sizes = [re.findall(rf"^{whose}_\w+: +(\d+) kB", part, re.MULTILINE) for part in parts if str(path) in part]
    return 1024 * sum(map(int, sum(sizes, [])))
