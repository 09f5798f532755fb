"""The writer keeps committed episodes through crashes and full disks, and drops all others."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from lfd.data import Dataset, Writer
from lfd.errors import DiskFull, UserError


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writer_in_a_new_folder_is_empty(tmp_path, vector):
    writer = Writer(tmp_path / "log", vector)
    assert (writer.cursor, writer.transitions, writer.episodes) == ({}, 0, 0)


def test_writer_reopened_has_the_committed_episodes(tmp_path, vector, make):
    episodes = [make(vector, steps, steps) for steps in (3, 50, 1)]
    writer = Writer(tmp_path / "log", vector, shard_bytes=300)
    for episode in episodes:
        writer.add(episode)
    writer.commit({"seed": 7})
    again = Writer(tmp_path / "log", vector, shard_bytes=999)
    assert (again.cursor, again.transitions, again.episodes) == ({"seed": 7}, 54, 3)
    again.finalize(tmp_path / "data.hdf5", {})
    returns = [episode.rewards.sum(dtype=np.float64) for episode in episodes]
    np.testing.assert_allclose(Dataset.open(tmp_path / "data.hdf5").returns(), returns)


def test_writer_reopened_drops_uncommitted_episodes(tmp_path, vector, make):
    log, first, lost, second = tmp_path / "log", make(vector, 40, 1), make(vector, 70, 2), make(vector, 9, 3)
    writer = Writer(log, vector, shard_bytes=500)
    writer.add(first)
    writer.commit({"n": 1})
    writer.add(lost)
    del writer  # its file is closed; the operating system may have written any part of it
    again = Writer(log, vector)
    assert (again.cursor, again.transitions) == ({"n": 1}, 40)
    again.add(second)
    again.finalize(tmp_path / "data.hdf5", {})
    dataset = Dataset.open(tmp_path / "data.hdf5")
    expected = np.concatenate([first.observations[:-1], second.observations[:-1]])
    np.testing.assert_array_equal(dataset.columns["observations"], expected)


def test_writer_after_a_crash_before_the_first_commit_is_empty(tmp_path, vector, make):
    writer = Writer(tmp_path / "log", vector)
    writer.add(make(vector, 40))
    del writer
    assert Writer(tmp_path / "log", vector).transitions == 0
    assert list((tmp_path / "log").iterdir()) == []


def test_writer_shards_stay_within_shard_bytes(tmp_path, frames, make):
    writer = Writer(tmp_path / "log", frames, stack=4, shard_bytes=1000)
    writer.add(make(frames, 200, stack=4))
    writer.commit({})
    sizes = [path.stat().st_size for path in (tmp_path / "log").glob("shard-*")]
    assert len(sizes) > 1 and max(sizes) <= 1000


def test_writer_folder_with_other_spaces_is_refused(tmp_path, vector, dictionary, make):
    writer = Writer(tmp_path / "log", vector)
    writer.add(make(vector, 3))
    writer.commit({})
    with pytest.raises(UserError, match="other spaces"):
        Writer(tmp_path / "log", dictionary)


def test_writer_shortened_shard_is_refused(tmp_path, vector, make):
    writer = Writer(tmp_path / "log", vector)
    writer.add(make(vector, 30))
    writer.commit({})
    with (tmp_path / "log" / "shard-00000.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(UserError, match="expected 744 bytes, got 10"):
        Writer(tmp_path / "log", vector)


def test_writer_other_infos_are_refused(tmp_path, vector, make):
    writer = Writer(tmp_path / "log", vector)
    writer.add(make(vector, 3, infos={"success": np.zeros(3, bool)}))
    with pytest.raises(UserError, match="success"):
        writer.add(make(vector, 3))


@pytest.mark.parametrize(("terminated", "kept"), [(True, 6), (False, 5)])
def test_writer_without_final_observation_drops_last_transition_unless_terminated(
    tmp_path, vector, make, terminated, kept
):
    episode = make(vector, 6, terminated=terminated, truncated=not terminated)
    episode = replace(episode, observations=episode.observations[:-1])
    assert not episode.has_final_observation
    writer = Writer(tmp_path / "log", vector)
    writer.add(episode)
    writer.finalize(tmp_path / "data.hdf5", {})
    dataset = Dataset.open(tmp_path / "data.hdf5")
    assert len(dataset) == kept
    np.testing.assert_array_equal(dataset.next_observations(np.arange(5)), episode.observations[1:6])
    assert dataset.columns["terminals"][-1] == terminated and dataset.columns["timeouts"][-1] != terminated
    assert dataset.metadata["audit"]["final_observation_unknown"] == 1
    # The behaviour earned its last reward even where the transition cannot be used.
    np.testing.assert_allclose(dataset.returns(), [episode.rewards.sum(dtype=np.float64)])


def test_writer_single_step_without_next_observation_is_not_added(tmp_path, vector, make):
    episode = make(vector, 1, terminated=False)
    writer = Writer(tmp_path / "log", vector)
    writer.add(replace(episode, observations=episode.observations[:-1]))
    assert writer.transitions == writer.episodes == 0
    with pytest.raises(UserError, match="expected at least one transition, got none"):
        writer.finalize(tmp_path / "data.hdf5", {})


def test_writer_full_disk_keeps_committed_episodes(tmp_path, vector, make):
    writer = Writer(tmp_path / "log", vector)
    writer.add(make(vector, 100))
    writer.commit({"n": 1})
    with largest_file(20_000), pytest.raises(DiskFull, match="disk is full"):
        for seed in range(1000):
            writer.add(make(vector, 100, seed))
            writer.commit({"n": 2})
    again = Writer(tmp_path / "log", vector)
    assert again.transitions == 100 * again.episodes > 0


def test_finalize_after_full_disk_continues(tmp_path, frames, make):
    writer = Writer(tmp_path / "log", frames, stack=4, shard_bytes=4000)
    writer.add(make(frames, 2000, stack=4))
    writer.commit({})
    with largest_file(30_000), pytest.raises(DiskFull, match="disk is full"):
        writer.finalize(tmp_path / "data.hdf5", {})
    assert not (tmp_path / "data.hdf5").exists()
    Writer(tmp_path / "log", frames, stack=4).finalize(tmp_path / "data.hdf5", {})
    assert len(Dataset.open(tmp_path / "data.hdf5")) == 2000
