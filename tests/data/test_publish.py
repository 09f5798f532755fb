"""Publishing survives a kill at any step and always ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from lfd.data import Dataset, Writer, publish
from lfd.errors import UserError

PASSPORT = {"env": {"id": "Test-v0"}, "made_by": {"policy": "random"}}


@pytest.fixture
def log(tmp_path, frames, make):
    """Several shards, episodes across their borders, and a border right at an episode's end."""
    writer = Writer(tmp_path / "log", frames, stack=4, shard_bytes=500)
    for seed, steps in enumerate((9, 1, 24, 3, 17)):
        writer.add(make(frames, steps, seed, stack=4, infos={"success": np.full(steps, seed)}))
    writer.commit({})
    assert len(list((tmp_path / "log").glob("shard-*"))) == 6
    return tmp_path / "log"


def finalize(log: Path, frames, path: Path) -> None:
    Writer(log, frames, stack=4).finalize(path, PASSPORT)


def test_publish_columns_are_contiguous_with_d4rl_names(tmp_path, log, frames, make):
    path = tmp_path / "out" / "data.hdf5"
    finalize(log, frames, path)
    episodes = [make(frames, steps, seed, stack=4) for seed, steps in enumerate((9, 1, 24, 3, 17))]
    with h5py.File(path) as file:
        for name in ("observations", "actions", "rewards", "terminals", "timeouts", "infos/success"):
            assert file[name].shape[0] == 54 and file[name].chunks is None
        assert (file["terminals"].dtype, file["actions"].dtype, file["rewards"].dtype) == (bool, np.int64, np.float32)
        np.testing.assert_array_equal(file["starts"], [0, 9, 10, 34, 37])
        np.testing.assert_array_equal(np.flatnonzero(file["terminals"]), [8, 9, 33, 36, 53])
        assert not file["timeouts"][:].any()
        np.testing.assert_array_equal(file["final/observations"], [episode.observations[-1] for episode in episodes])
        np.testing.assert_array_equal(file["observations"], np.concatenate([e.observations[:-1] for e in episodes]))
        np.testing.assert_array_equal(file["actions"], np.concatenate([e.actions for e in episodes]))
        np.testing.assert_array_equal(file["infos/success"], np.repeat(np.arange(5), (9, 1, 24, 3, 17)))
        for column in publish.read_layout(file).values():
            assert column.offset % 64 == 0


def test_publish_deletes_a_shard_after_its_copy_is_synced(tmp_path, log, frames, monkeypatch):
    copy, fsync, events = publish._copy_shard, os.fsync, []

    def record(event):
        events.append((event, len(list(log.glob("shard-*")))))

    monkeypatch.setattr(publish, "_copy_shard", lambda *a: (record("copy"), copy(*a)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (record("sync"), fsync(descriptor)))
    finalize(log, frames, tmp_path / "data.hdf5")
    first = events.index(("copy", 6))
    expected = [(event, left) for left in (6, 5, 4, 3, 2, 1) for event in ("copy", "sync")]
    assert events[first : first + 12] == expected  # a shard is still there when its copy is made safe


def test_publish_bytes_are_independent_of_time_and_shards(tmp_path, log, frames, make):
    shutil.copytree(log, tmp_path / "same")
    finalize(log, frames, tmp_path / "a" / "data.hdf5")
    time.sleep(1.1)  # HDF5 counts in seconds
    finalize(tmp_path / "same", frames, tmp_path / "b" / "data.hdf5")
    for name in ("data.hdf5", "metadata.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_publish_killed_at_any_step_continues_to_the_same_bytes(tmp_path, log, frames, monkeypatch):
    shutil.copytree(log, tmp_path / "reference")
    finalize(tmp_path / "reference", frames, tmp_path / "whole" / "data.hdf5")
    put, kills = publish._write_rows, 0
    for stop_at in range(1000):
        folder, out = tmp_path / f"log{stop_at}", tmp_path / f"out{stop_at}" / "data.hdf5"
        shutil.copytree(log, folder)
        child = os.fork()
        if child == 0:
            passed = [0]

            def step(*_: object, passed=passed, stop_at=stop_at) -> None:
                if passed[0] == stop_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                passed[0] += 1

            def torn(out, column, row, rows, step=step):
                step()
                put(out, column, row, rows[: len(rows) // 2])
                out.flush()
                step()
                put(out, column, row, rows)

            sys.addaudithook(lambda event, _: step() if event in {"open", "os.rename", "os.remove"} else None)
            monkeypatch.setattr(publish, "_write_rows", torn)
            try:
                finalize(folder, frames, out)
            finally:
                os._exit(not out.exists())
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        kills += killed
        assert out.exists() or killed
        finalize(folder, frames, out)
        for name in ("data.hdf5", "metadata.json"):
            assert (out.parent / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), stop_at
        assert sorted(path.name for path in out.parent.iterdir()) == ["data.hdf5", "metadata.json"]
        if not killed:
            break
    assert kills > 50


def test_finalize_twice_changes_nothing(tmp_path, log, frames):
    finalize(log, frames, tmp_path / "data.hdf5")
    before = (tmp_path / "data.hdf5").stat().st_mtime_ns
    finalize(log, frames, tmp_path / "data.hdf5")
    assert (tmp_path / "data.hdf5").stat().st_mtime_ns == before


def test_publish_missing_shard_is_refused(tmp_path, log, frames):
    (log / "shard-00002.bin").unlink()
    with pytest.raises(UserError, match="expected 6 shards, got 5"):
        finalize(log, frames, tmp_path / "data.hdf5")


def test_publish_dict_observations_are_groups(tmp_path, dictionary, make):
    writer = Writer(tmp_path / "log", dictionary, shard_bytes=200)
    episodes = [make(dictionary, 4, 0), make(dictionary, 6, 1)]
    for episode in episodes:
        writer.add(episode)
    writer.finalize(tmp_path / "data.hdf5", {})
    dataset = Dataset.open(tmp_path / "data.hdf5")
    for key in ("image", "side"):
        expected = np.concatenate([episode.observations[key][:-1] for episode in episodes])
        np.testing.assert_array_equal(dataset.columns["observations"][key], expected)
        np.testing.assert_array_equal(
            dataset.final_observations[key], [episode.observations[key][-1] for episode in episodes]
        )
    with h5py.File(tmp_path / "data.hdf5") as file:
        assert file["observations/image"].shape == (10, 4, 4, 3)
