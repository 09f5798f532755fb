"""Reading D4RL files: where and why episodes end, final observations, refused columns."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lfd.data import read
from lfd.errors import UserError

# Rows 0-2 terminate, 3-6 are truncated, 7-8 are what the file's end cut off.
TERMINALS, TIMEOUTS = [2], [6]


@pytest.fixture
def columns():
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(9, 3)).astype(np.float32)
    successors = np.concatenate([observations[1:], generator.normal(size=(1, 3)).astype(np.float32)])
    successors[[2, 6]] = generator.normal(size=(2, 3))
    terminals, timeouts = np.zeros(9, bool), np.zeros(9, bool)
    terminals[TERMINALS], timeouts[TIMEOUTS] = True, True
    return {
        "observations": observations,
        "next_observations": successors,
        "actions": generator.uniform(-1, 1, (9, 2)).astype(np.float32),
        "rewards": np.arange(9, dtype=np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "infos/qpos": generator.normal(size=(9, 4)),
        "metadata/algorithm": np.bytes_("SAC"),
    }


@pytest.fixture
def write(tmp_path):
    def build(columns):
        path = tmp_path / "d4rl.hdf5"
        with h5py.File(path, "w") as file:
            for name, column in columns.items():
                gzip = {"compression": "gzip"} if np.ndim(column) else {}
                file.create_dataset(name, data=column, **gzip)
        return path

    return build


def ends(episodes):
    return [(len(e), e.terminated, e.truncated, e.has_final_observation) for e in episodes]


def test_read_d4rl_next_observations_give_final_observations(write, columns):
    episodes = list(read(write(columns)))
    assert ends(episodes) == [(3, True, False, True), (4, False, True, True), (2, False, False, True)]
    for episode, last in zip(episodes, (2, 6, 8), strict=True):
        np.testing.assert_array_equal(episode.observations[-1], columns["next_observations"][last])
    np.testing.assert_array_equal(episodes[1].observations[:-1], columns["observations"][3:7])
    np.testing.assert_array_equal(episodes[1].rewards, [3, 4, 5, 6])
    np.testing.assert_array_equal(episodes[1].infos["qpos"], columns["infos/qpos"][3:7])


def test_read_d4rl_without_next_observations_has_no_final_ones(write, columns):
    del columns["next_observations"]
    assert ends(read(write(columns))) == [(3, True, False, False), (4, False, True, False), (2, False, False, False)]


def test_read_d4rl_columns_of_width_one_and_float_flags_are_read(write, columns):
    for name in ("rewards", "terminals", "timeouts"):
        columns[name] = columns[name].astype(np.float32)[:, None]
    episodes = list(read(write(columns)))
    assert episodes[0].rewards.shape == (3,)
    assert ends(episodes)[:2] == [(3, True, False, True), (4, False, True, True)]


def test_read_d4rl_without_timeouts_splits_at_resets(write, columns):
    del columns["timeouts"]
    assert ends(read(write(columns))) == [(3, True, False, True), (4, False, False, True), (2, False, False, True)]


def test_read_d4rl_without_timeouts_counts_the_time_limit(write, columns):
    del columns["timeouts"], columns["next_observations"]
    path = write(columns)
    expected = [(3, True, False, False), (4, False, True, False), (2, False, False, False)]
    assert ends(read(path, max_episode_steps=4)) == expected
    with pytest.raises(UserError, match="give dataset.max_episode_steps"):
        list(read(path))


def test_read_d4rl_termination_at_time_limit_is_kept(write, columns):
    del columns["timeouts"], columns["next_observations"]
    assert ends(read(write(columns), max_episode_steps=3))[0] == (3, True, False, False)


def test_read_d4rl_missing_or_short_column_is_refused(write, columns):
    with pytest.raises(UserError, match="expected terminals, got actions"):
        list(read(write({name: column for name, column in columns.items() if name != "terminals"})))
    with pytest.raises(UserError, match="9 rewards"):
        list(read(write(columns | {"actions": columns["actions"][:5]})))


def test_read_d4rl_empty_columns_are_refused(write, columns):
    empty = {name: column[:0] if np.ndim(column) else column for name, column in columns.items()}
    path = write({name: column for name, column in empty.items() if not name.startswith("metadata")})
    with pytest.raises(UserError, match="expected transitions, got empty columns"):
        list(read(path, None))


def test_read_d4rl_pickle_in_hdf5_is_refused(write, columns):
    path = write(columns)
    with h5py.File(path, "a") as file:
        file["actions"].attrs["__data_type__"] = "pickled_ndarray"
    with pytest.raises(UserError, match="actions: expected numbers, got a pickle"):
        list(read(path))


def test_read_d4rl_text_column_is_refused(write, columns):
    path = write({name: column for name, column in columns.items() if name != "observations"})
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", data=["a"] * 9)
    with pytest.raises(UserError, match="observations: expected numbers, got object"):
        list(read(path))


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e5])
def test_find_resets_is_independent_of_units(write, columns, unit):
    del columns["timeouts"]
    rows = {name: columns[name] * np.float32(unit) for name in ("observations", "next_observations")}
    expected = [(3, True, False, True), (4, False, False, True), (2, False, False, True)]
    assert ends(read(write(columns | rows))) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_find_resets_ignores_rounding(write, columns, dtype):
    columns["next_observations"] = columns["next_observations"].astype(dtype)
    columns["observations"][:, 2] += 1000  # a dimension of which its size, not its spread, decides the rounding
    columns["next_observations"][:, 2] += 1000
    assert [len(episode) for episode in read(write(columns))] == [3, 4, 2]


def test_read_d4rl_unwritten_flags_are_0(write, columns):
    del columns["timeouts"]
    path = write(columns)
    with h5py.File(path, "a") as file:
        file.create_dataset("timeouts", (9,), bool)
    assert ends(read(path))[1] == (4, False, False, True)
