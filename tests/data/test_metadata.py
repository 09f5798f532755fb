"""The metadata of a dataset: counts, content hash and audit."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
import pytest

from lfd.data import Dataset, Episode, Writer


@pytest.fixture
def metadata(tmp_path):
    def build(spaces, episodes, stack=1):
        writer = Writer(tmp_path / "log", spaces, stack)
        for episode in episodes:
            writer.add(episode)
        writer.finalize(tmp_path / "data.hdf5", {"env": {"id": "Test-v0"}, "made_by": {"policy": "random"}})
        return Dataset.open(tmp_path / "data.hdf5").metadata

    return build


def test_compute_metadata_counts_returns_and_ends(metadata, vector, make):
    ends = [(True, False), (False, True), (True, True), (False, False)]
    episodes = [make(vector, n + 1, n, terminated=t, truncated=u) for n, (t, u) in enumerate(ends)]
    for episode in episodes:
        episode.rewards[:] = 2
    found = metadata(vector, episodes)
    assert (found["transitions"], found["episodes"], found["stack"], found["format"]) == (10, 4, 1, 1)
    assert found["ends"] == {"terminated": 2, "truncated": 1, "cut": 1}
    assert found["returns"] == {"mean": 5, "std": pytest.approx(5**0.5), "min": 2, "max": 8}
    assert found["lengths"]["mean"] == 2.5
    assert found["columns"]["observations"] == {"dtype": "float32", "shape": [3]}
    assert (found["env"], found["made_by"]) == ({"id": "Test-v0"}, {"policy": "random"})
    assert found["spaces"] == vector.to_json()


def test_content_sha256_depends_on_content_only(tmp_path, metadata, vector, make):
    found = metadata(vector, [make(vector, 5)])
    digest, columns = hashlib.sha256(), {}
    with h5py.File(tmp_path / "data.hdf5") as file:
        file.visititems(lambda name, item: columns.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    for name, column in sorted(columns.items()):
        digest.update(f"{name} {column.dtype.str} {column.shape}\n".encode() + column.tobytes())
    assert found["sha256"] == digest.hexdigest()


def test_audit_of_clean_data_is_empty(metadata, vector, make):
    assert metadata(vector, [make(vector, 20, 0), make(vector, 20, 1)])["audit"] == {
        "nonfinite": {},
        "constant": {},
        "duplicates": 0,
        "actions_out_of_bounds": 0,
        "final_observation_unknown": 0,
        "crosses_reset": 0,
    }


def test_audit_finds_nan_constants_and_actions_out_of_bounds(metadata, dictionary, vector, make):
    episode = make(vector, 20)
    episode.observations[3, 1] = np.nan
    episode.observations[20, 1] = np.inf
    episode.observations[:, 2] = 4
    episode.actions[:3] = 4
    audit = metadata(vector, [episode])["audit"]
    assert audit["nonfinite"] == {"final/observations": 1, "observations": 1}
    assert audit["constant"] == {"observations": [2]}
    assert audit["actions_out_of_bounds"] == 3


def test_audit_continuous_actions_and_images_are_checked(metadata, dictionary, make):
    episode = make(dictionary, 20)
    episode.actions[[2, 5], 1] = 1.5
    episode.observations["image"][:] = 7
    audit = metadata(dictionary, [episode])["audit"]
    assert audit["actions_out_of_bounds"] == 2
    assert audit["constant"] == {"observations/image": "all"}


def test_duplicates_compare_whole_transitions(metadata, vector, make):
    once, other = make(vector, 10, 0), make(vector, 10, 1)
    # The same first five steps, then another action: 5 of 20 repeat, and no more though 6 observations do.
    twin = Episode(*(np.concatenate([a[:n], b[n:]]) for a, b, n in (
        (once.observations, other.observations, 6),
        (once.actions, (once.actions + 1) % 4, 5),
        (once.rewards, other.rewards, 5),
    )), terminated=True, truncated=False)  # fmt: skip
    assert metadata(vector, [once, twin])["audit"]["duplicates"] == pytest.approx(5 / 20)


def test_duplicates_with_other_final_observation_are_distinct(metadata, vector, make):
    first, second, third = make(vector, 1), make(vector, 1), make(vector, 1)
    third.observations[-1] += 1
    assert metadata(vector, [first, second, third])["audit"]["duplicates"] == pytest.approx(1 / 3)


def test_duplicates_of_stacked_frames_compare_all_frames(metadata, frames, make):
    episode = make(frames, 12, stack=4)
    episode.actions[:], episode.rewards[:] = 0, 0
    # Frames 5 and 6 are frames 1 and 2 again, but what was seen before them differs.
    episode.observations[5:7] = episode.observations[1:3]
    assert metadata(frames, [episode], stack=4)["audit"]["duplicates"] == 0
