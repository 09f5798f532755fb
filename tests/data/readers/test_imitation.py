"""Reading imitation's folders of trajectories."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from lfd.data import read
from lfd.data.readers import imitation
from lfd.errors import UserError

LENGTHS = (3, 5, 2)
INFO = '{"py/object": "os.system"}'  # never looked at


def rows(**changed):
    """Columns as imitation hands them to `datasets`; the last trajectory was still running."""
    columns = {
        "obs": [[[float(step), 1.0, 2.0, 3.0] for step in range(length + 1)] for length in LENGTHS],
        "acts": [[step % 2 for step in range(length)] for length in LENGTHS],
        "infos": [[INFO] * length for length in LENGTHS],
        "terminal": [True, True, False],
        "rews": [[float(step) for step in range(length)] for length in LENGTHS],
    }
    return {name: column for name, column in (columns | changed).items() if column is not None}


@pytest.fixture
def save(tmp_path):
    """What `datasets.Dataset.save_to_disk` leaves of `columns`."""

    def build(columns, types=None, shards=1):
        folder = tmp_path / "rollouts.npz"
        folder.mkdir()
        arrays = {name: pa.array(values, (types or {}).get(name)) for name, values in columns.items()}
        table = pa.table(arrays).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {}}})})
        names = [f"data-{index:05d}-of-{shards:05d}.arrow" for index in range(shards)]
        for index, name in enumerate(names):
            share = range(index * len(table) // shards, (index + 1) * len(table) // shards)
            with pa.ipc.new_stream(folder / name, table.schema) as stream:
                stream.write_table(table.slice(share.start, len(share)))
        state = {"_data_files": [{"filename": name} for name in names], "_format_type": None, "_split": None}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": {}}))
        return folder

    return build


@pytest.mark.parametrize("shards", [1, 3])
def test_read_imitation_trajectories_have_final_observations(save, shards):
    episodes = list(read(save(rows(), shards=shards)))
    assert [len(episode) for episode in episodes] == list(LENGTHS)
    assert all(episode.has_final_observation for episode in episodes)
    np.testing.assert_array_equal(episodes[1].observations[:, 0], [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(episodes[1].actions, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(episodes[2].rewards, [0, 1])


def test_read_imitation_terminal_at_time_limit_is_truncation(save):
    folder = save(rows())
    found = [(episode.terminated, episode.truncated) for episode in read(folder, max_episode_steps=5)]
    assert found == [(True, False), (False, True), (False, False)]  # the last was still running
    assert not any(episode.terminated or episode.truncated for episode in read(folder))


def test_read_imitation_pixels_and_actions_keep_shape_and_dtype(save):
    pixels = [np.full((length + 1, 6, 5, 3), length, np.uint8).tolist() for length in LENGTHS]
    nested = pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8()))))
    actions = [[[0.5, -0.5]] * length for length in LENGTHS]
    columns = rows(obs=pixels, acts=actions)
    first = next(read(save(columns, {"obs": nested, "acts": pa.list_(pa.list_(pa.float32(), 2))})))
    assert (first.observations.shape, first.observations.dtype) == ((4, 6, 5, 3), np.uint8)
    assert (first.actions.shape, first.actions.dtype) == ((3, 2), np.float32)


def test_read_imitation_without_rewards_gives_0(save):
    assert not any(episode.rewards.any() for episode in read(save(rows(rews=None))))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"acts": None}, "has no acts: .* got obs, infos, terminal, rews;"),
        ({"obs": [[{"x": 1.0}] * (length + 1) for length in LENGTHS]}, "obs: expected numbers, got struct"),
        ({"obs": [[[1.0], [1.0, 2.0]]] * 3}, "obs: expected an array, got lists of different lengths"),
        ({"acts": [[None] * length for length in LENGTHS]}, "acts: expected numbers, got null"),
        ({"acts": [["left"] * length for length in LENGTHS]}, "acts: expected numbers, got string"),
    ],
)
def test_read_imitation_bad_column_is_refused(save, changed, told):
    with pytest.raises(UserError, match=told):
        list(read(save(rows(**changed))))


@pytest.mark.parametrize("lost", [400, 8])  # within a trajectory, and no more than the end of the stream
def test_read_imitation_truncated_file_is_refused(save, lost):
    folder = save(rows())
    file = folder / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(UserError, match="damaged"):
        list(read(folder))


def test_arrow_files_incomplete_folder_is_refused(save):
    folder = save(rows(), shards=2)
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match="got no data-00001-of-00002.arrow"):
        list(read(folder))
    (folder / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state\.json: expected _data_files"):
        list(read(folder))


def test_read_imitation_without_pyarrow_names_the_install_command(save, monkeypatch):
    monkeypatch.setattr(imitation, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        list(read(save(rows())))
