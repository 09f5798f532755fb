"""Files that are damaged, unfinished or malicious: each is refused in a line that names the file and what is wrong."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest

from lfd.cli import main as cli
from lfd.data.survey import survey
from lfd.envs.spaces import Spaces
from lfd.errors import UserError

DISCRETE = Spaces(gym.spaces.Box(-np.inf, np.inf, (3,)), gym.spaces.Discrete(2))
CONTINUOUS = Spaces(gym.spaces.Box(-np.inf, np.inf, (3,)), gym.spaces.Box(-2, 2, (1,)))
MALFORMED: dict[str, tuple[Callable[[Path], Path], Spaces | None, str]] = {}


def case(match: str, spaces: Spaces | None = None):
    def take(build):
        MALFORMED[build.__name__] = (build, spaces, match)
        return build

    return take


def rows(count: int = 20) -> dict[str, np.ndarray]:
    draw, ends = np.random.default_rng(0), np.arange(1, count + 1) % 5 == 0
    return {
        "observations": draw.normal(size=(count, 3)), "actions": draw.integers(0, 2, count),
        "rewards": np.ones(count), "terminals": ends, "timeouts": np.zeros(count, bool),
    }  # fmt: skip


def d4rl(folder: Path, **columns: np.ndarray | None) -> Path:
    with h5py.File(folder / "rows.hdf5", "w") as file:
        for name, column in (rows() | columns).items():
            if column is not None:
                file[name] = column
    return folder / "rows.hdf5"


def changed(name: str, row: int, value: float, dtype: type = float) -> dict[str, np.ndarray]:
    column = rows()[name].astype(dtype)
    column[row] = value
    return {name: column}


def baselines(folder: Path, **columns: np.ndarray) -> Path:
    given = {
        "obs": np.zeros((20, 3)), "actions": np.zeros((20, 1), int), "rewards": np.ones(20),
        "episode_starts": np.arange(20) % 5 == 0,
    }  # fmt: skip
    np.savez(folder / "rows.npz", **(given | columns))
    return folder / "rows.npz"


def imitation(folder: Path, **columns: np.ndarray) -> Path:
    given = {
        "obs": np.zeros((22, 3)), "acts": np.zeros(20, int), "rews": np.ones(20), "indices": np.array([8]),
        "terminal": np.ones(2, bool),
    }  # fmt: skip
    np.savez(folder / "rows.npz", **(given | columns))
    return folder / "rows.npz"


def transitions(folder: Path, change: Callable[[list[dict]], object]) -> Path:
    steps = [{"obs": np.zeros(3), "action": 0, "reward": 1.0, "done": index == 9} for index in range(10)]
    content = change(steps)
    (folder / "rows.pkl").write_bytes(pickle.dumps(steps if content is None else content))
    return folder / "rows.pkl"


def minari(folder: Path, metadata: object = None, **columns: object) -> Path:
    data = folder / "set" / "data"
    data.mkdir(parents=True)
    if metadata is not None:
        (data / "metadata.json").write_text(metadata if isinstance(metadata, str) else json.dumps(metadata))
    given = {
        "observations": np.zeros((6, 3), np.float32), "actions": np.zeros((5, 1), np.float32), "rewards": np.ones(5),
        "terminations": np.arange(5) == 4, "truncations": np.zeros(5, bool),
    }  # fmt: skip
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for name, column in (given | columns).items():
            if column is not None:
                file[f"episode_0/{name}"] = column
    return data.parent


# Files that are none


@case("got a pipe, a socket or a device")
def pipe(folder):
    os.mkfifo(folder / "pipe.hdf5")
    return folder / "pipe.hdf5"


@case("got a pipe, a socket or a device")
def unix_socket(folder):
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as made:
        try:
            made.bind(str(path))
        except OSError:  # the folder of the tests is too deep for its name
            os.mkfifo(path)
    return path


@case("got a pipe, a socket or a device")
def device(folder):
    (folder / "rows.npz").symlink_to("/dev/null")
    return folder / "rows.npz"


@case("got a link to nothing")
def dangling_link(folder):
    (folder / "rows.npz").symlink_to(folder / "gone")
    return folder / "rows.npz"


@case("expected a known format")
def empty_file(folder):
    (folder / "rows.hdf5").touch()
    return folder / "rows.hdf5"


# HDF5


@case("actions: expected an array, got a link to nothing")
def soft_link_to_nothing(folder):
    path = d4rl(folder, actions=None)
    with h5py.File(path, "a") as file:
        file["actions"] = h5py.SoftLink("/nowhere")
    return path


@case("rewards: expected an array, got a link to another file")
def column_of_another_file(folder):
    with h5py.File(folder / "other.hdf5", "w") as other:
        other["rewards"] = np.ones(20)
    path = d4rl(folder, rewards=None)
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.ExternalLink("other.hdf5", "/rewards")
    return path


@case("timeouts: expected an array, got a link to nothing")
def flags_that_lead_nowhere(folder):
    path = d4rl(folder, timeouts=None)
    with h5py.File(path, "a") as file:
        file["timeouts"] = h5py.SoftLink("/nowhere")
    return path


@case("observations: expected rows in this file, got rows in other files")
def virtual_rows_whose_source_is_gone(folder):
    layout = h5py.VirtualLayout((20, 3), float)
    layout[:] = h5py.VirtualSource(str(folder / "gone.hdf5"), "observations", (20, 3))
    path = d4rl(folder, observations=None)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("observations", layout)
    return path


@case(r"observations: expected rows in this file, got rows in other files \(/etc/hostname\)")
def bytes_of_the_system(folder):
    path = d4rl(folder, observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (20, 3), "u1", external=[("/etc/hostname", 0, 60)])
    return path


@case("observations: expected 10,000,000,000 written rows")
def rows_beyond_all_memory(folder):
    path = folder / "rows.hdf5"
    with h5py.File(path, "w") as file:
        for name, shape in (("observations", (3,)), ("actions", ()), ("rewards", ()), ("terminals", ())):
            file.create_dataset(name, (10**10, *shape), "f4", chunks=(1024, *shape))
    return path


@case("rewards: expected 20 written rows, got fewer")
def rows_that_were_never_written(folder):
    path = d4rl(folder, rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (20,), "f4", chunks=(5,))[:10] = 1
    return path


@case("reading .* failed with OSError")
def corrupt_chunk(folder):
    path = d4rl(folder, observations=None)
    with h5py.File(path, "a") as file:
        column = file.create_dataset("observations", data=rows()["observations"], chunks=(10, 3), compression="gzip")
        at = column.id.get_chunk_info(1).byte_offset
    with path.open("r+b") as raw:
        raw.seek(at)
        raw.write(b"\xff" * 40)
    return path


@case("12 timeouts")
def short_timeouts(folder):
    return d4rl(folder, timeouts=np.zeros(12, bool))


@case("25 next_observations")
def long_successors(folder):
    return d4rl(folder, next_observations=np.zeros((25, 3)))


@case(r"next_observations: expected the shape of observations, .* got \(20, 2\)")
def narrow_successors(folder):
    return d4rl(folder, next_observations=np.zeros((20, 2)))


@case("terminals of row 4: expected 0 or 1, got -1")
def negative_flags(folder):
    return d4rl(folder, terminals=-rows()["terminals"].astype(int))


@case("timeouts of row 7: expected 0 or 1, got nan")
def flags_that_are_no_number(folder):
    return d4rl(folder, **changed("timeouts", 7, np.nan))


@case(r"terminals: expected one flag a row, got the shape \(20, 2\)")
def two_flags_a_row(folder):
    return d4rl(folder, terminals=np.zeros((20, 2), bool))


@case("rewards: expected numbers, got complex128 values")
def complex_rewards(folder):
    return d4rl(folder, rewards=np.ones(20, complex))


@case(r"episode 1: rewards of step 2: expected numbers that float32 holds, got 1e\+300")
def reward_beyond_float32(folder):
    return d4rl(folder, **changed("rewards", 7, 1e300))


@case("episode 2: actions of step 3: expected finite numbers, got -inf", None)
def infinite_action(folder):
    return d4rl(folder, **changed("actions", 13, -np.inf))


@case(r"observations\[1\] of episode 3, step 1 is 1e\+09, where nearly all values lie from -?[\d.]+ to [\d.]+")
def absurd_observation(folder):
    column = rows()["observations"]
    column[16, 1] = 1e9
    return d4rl(folder, observations=column)


@case("actions of episode 2, step 1 is 50,000,000, and only 3 different numbers occur")
def absurd_number_of_actions(folder):
    return d4rl(folder, **changed("actions", 11, 50_000_000, int))


@case(r"expected .* from 0 to 1, .* 2 of 20 actions are not \(the first: 5 of episode 0, step 3\)", DISCRETE)
def actions_that_the_environment_has_not(folder):
    column = rows()["actions"]
    column[[3, 9]] = 5
    return d4rl(folder, actions=column)


@case("they count from 1: subtract 1", DISCRETE)
def actions_that_count_from_one(folder):
    return d4rl(folder, actions=rows()["actions"] + 1)


@case(r"1 of 20 actions lie beyond the bounds \(the first: 7.5 in .* of episode 1, step 1\).*clip_actions", CONTINUOUS)
def actions_beyond_the_bounds(folder):
    return d4rl(folder, **changed("actions", 6, 7.5))


@case("observations: expected numbers, got object")
def text_for_observations(folder):
    return d4rl(folder, observations=np.array(["a"] * 20, dtype=object))


@case(r"observations: expected numbers in each row, got the shape \(5, 0\)")
def rows_of_nothing(folder):
    return d4rl(folder, observations=np.zeros((20, 0)))


# Archives


@case("20 actions, 18 episode_starts|expected one row a step in each")
def short_starts(folder):
    return baselines(folder, episode_starts=np.zeros(18, bool))


@case("25 obs")
def long_observations(folder):
    return baselines(folder, obs=np.zeros((25, 3)))


@case("episode_starts: expected true .* got false everywhere")
def no_starts(folder):
    return baselines(folder, episode_starts=np.zeros(20, bool))


@case("rewards: expected one row a step, got a single number")
def one_reward(folder):
    return baselines(folder, rewards=np.float64(1))


@case(r"terminal: expected 2, .* got 1")
def one_flag_for_two(folder):
    return imitation(folder, terminal=np.ones(1, bool))


@case(r"indices: expected .* got \[12, 8\]")
def falling_indices(folder):
    return imitation(folder, indices=np.array([12, 8]), terminal=np.ones(3, bool), obs=np.zeros((23, 3)))


@case(r"indices: expected .* got \[8.5\]")
def indices_between_rows(folder):
    return imitation(folder, indices=np.array([8.5]))


@case("obs: expected 22, .* got 20")
def no_final_observations(folder):
    return imitation(folder, obs=np.zeros((20, 3)))


@case("expected transitions, got empty columns")
def an_archive_of_nothing(folder):
    empty = {name: np.zeros((0, 3)) for name in ("obs",)} | {name: np.zeros(0) for name in ("acts", "rews")}
    return imitation(folder, **empty, indices=np.zeros(0, int), terminal=np.zeros(0, bool))


@case("rewards is a damaged array|expected data that fit into memory")
def an_array_of_a_declared_size(folder):
    path, header = baselines(folder), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in (content | {"rewards.npy": header.getvalue() + b"\0" * 80}).items():
            archive.writestr(name, raw)
    return path


@case("is a damaged archive")
def a_torn_archive(folder):
    path = baselines(folder)
    path.write_bytes(path.read_bytes()[:-30])
    return path


# Pickles


@case("episode 0: actions: expected numbers, got <U21 values")
def words_for_actions(folder):
    return transitions(folder, lambda steps: steps[4].update(action="up"))


@case("values")
def nothing_for_a_reward(folder):
    return transitions(folder, lambda steps: steps[4].update(reward=None))


@case("expected the same keys and shapes in all transitions")
def a_transition_without_observation(folder):
    return transitions(folder, lambda steps: steps[4].pop("obs") is None or None)


@case("expected a list of dicts")
def a_pickled_number(folder):
    return transitions(folder, lambda steps: 5)


@case("expected data that fit into memory|expected a pickle, got a damaged one")
def a_text_of_a_declared_size(folder):
    (folder / "rows.pkl").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"abc.")
    return folder / "rows.pkl"


# Minari


@case("metadata.json: expected JSON, .* got a damaged file")
def metadata_in_pieces(folder):
    return minari(folder, '{"data_format": "hd')


@case("metadata.json: expected an object, .* got list")
def metadata_that_are_a_list(folder):
    return minari(folder, ["hdf5"])


@case("expected an observation_space and an action_space, .*'Boxx'")
def unknown_space(folder):
    named = json.dumps({"type": "Boxx"})
    return minari(folder, {"observation_space": named, "action_space": named})


@case("a Discrete of 1,000,000,000")
def actions_beyond_all_networks(folder):
    named = json.dumps({"type": "Discrete", "n": 10**9, "start": 0})
    return minari(folder, {"observation_space": named, "action_space": named})


@case("the actions: expected Discrete from 0 or a Box of floats, got MultiDiscrete")
def several_discrete_actions(folder):
    box = {"type": "Box", "dtype": "float32", "shape": [3], "low": [-1.0] * 3, "high": [1.0] * 3}
    many = {"type": "MultiDiscrete", "dtype": "int64", "nvec": [2, 3], "start": [0, 0]}
    return minari(folder, {"observation_space": json.dumps(box), "action_space": json.dumps(many)})


@case(r"got empty columns \(episode_0/actions")
def an_episode_of_no_step(folder):
    empty = {name: np.zeros(0) for name in ("actions", "rewards", "terminations", "truncations")}
    return minari(folder, observations=np.zeros((1, 3)), **empty)


@case("4 episode_0/truncations")
def flags_of_another_length(folder):
    return minari(folder, truncations=np.zeros(4, bool))


@case("got 5 actions and 9 observations in an episode")
def too_many_observations(folder):
    return minari(folder, observations=np.zeros((9, 3)))


@case("expected a JPEG image, got a damaged one")
def a_torn_image(folder):
    return minari(folder, observations=np.tile(np.frombuffer(b"\xff\xd8\xff\xe0torn", np.uint8), (6, 1)))


@case("expected episode_0/rewards, got actions")
def a_column_is_missing(folder):
    return minari(folder, rewards=None)


@pytest.mark.parametrize("name", MALFORMED)
def test_survey_malformed_file_is_refused_in_one_line(name, tmp_path):
    build, spaces, match = MALFORMED[name]
    path = build(tmp_path)
    with pytest.raises(UserError, match=match) as refused:
        survey(path, spaces)
    told = str(refused.value)
    assert str(path) in told and "\n" not in told and len(told) < 700
    assert "weights_only" not in told and "a fault of ours" not in told


@pytest.mark.parametrize(
    "name",
    ["pipe", "corrupt_chunk", "rows_beyond_all_memory", "infinite_action", "long_observations", "metadata_in_pieces"],
)
def test_cli_malformed_file_exits_with_2_and_leaves_nothing(name, tmp_path, monkeypatch, capsys):
    path = MALFORMED[name][0](tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    line = ["run.py", "algo=bc", "env=none", f"dataset.path={path}", "dataset.max_episode_steps=50"]
    for more in ([], ["dry_run=true"]):
        monkeypatch.setattr(sys, "argv", [*line, *more])
        assert cli.run() == 2
        told = capsys.readouterr().err
        assert told.startswith("lfd: ") and told.count("\n") == 1 and str(path.parent) in told
        assert list(empty.iterdir()) == []


def test_survey_file_open_for_writing_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    path = d4rl(tmp_path)
    refused = BlockingIOError(11, "Unable to lock file, errno = 11, error message = 'Resource temporarily unavailable'")

    def locked(*_, **__):
        raise refused

    monkeypatch.setattr("lfd.data.layout.h5py.File", locked)
    with pytest.raises(UserError, match="in use by another process"):
        survey(path)


def test_survey_unreadable_file_is_refused(tmp_path, monkeypatch):
    path = baselines(tmp_path)

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lfd.data.readers.read_npz", forbidden)
    with pytest.raises(UserError, match=r"rows.npz cannot be read \(Permission denied\)"):
        survey(path)
