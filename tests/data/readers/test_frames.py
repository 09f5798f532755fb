"""Stacked frames of foreign files become single frames, or are refused if frames would be lost."""

from __future__ import annotations

import gymnasium as gym
import h5py
import numpy as np
import pytest

from lfd.data import Writer, read
from lfd.data.dataset import Dataset
from lfd.envs.spaces import Spaces
from lfd.errors import UserError

SPACES = Spaces(gym.spaces.Box(0, 255, (4, 6, 5), np.uint8), gym.spaces.Discrete(3))
FRAMES = np.random.default_rng(0).integers(1, 256, (12, 6, 5)).astype(np.uint8)
STARTS = np.repeat([0, 6], 6)  # two episodes of six rows


def stacked(first: str) -> np.ndarray:
    """[12, 4, 6, 5]; before an episode its first frame is repeated, or there is nothing, or what was before."""
    rows = np.arange(12)[:, None] + np.arange(-3, 1)
    stacks = FRAMES[np.maximum(rows, STARTS[:, None] if first != "earlier" else 0)]
    if first == "zeros":
        stacks[rows < STARTS[:, None]] = 0
    return stacks


def write(path, observations):
    ends = np.arange(12) % 6 == 5
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"], file["rewards"] = observations, np.arange(12) % 3, np.ones(12)
        file["terminals"], file["timeouts"] = ends, np.zeros(12, bool)
    return path


FORMS = {
    "single": FRAMES,
    "last axis of one": FRAMES[..., None],
    "first axis of one": FRAMES[:, None],
    "stacks": stacked("repeated"),
    "stacks behind zeros": stacked("zeros"),
    "stacks on the last axis": np.moveaxis(stacked("repeated"), 1, -1),
}


@pytest.mark.parametrize("form", FORMS)
def test_unstack_foreign_stacks_gives_single_frames(form, tmp_path):
    path = write(tmp_path / "a.hdf5", FORMS[form])
    writer = Writer(tmp_path / "log", SPACES, 4)
    for episode in read(path, SPACES, stack=4):
        writer.add(episode)
    writer.finalize(tmp_path / "data.hdf5", {})
    data = Dataset.open(tmp_path / "data.hdf5")
    np.testing.assert_array_equal(data.observations(np.arange(12)), stacked("repeated"))


@pytest.mark.parametrize(
    ("observations", "match"),
    [
        (stacked("earlier"), "got 3 of 12 stacks with frames from before"),
        (stacked("repeated")[:, ::-1], "the oldest first, got others"),
        (stacked("repeated")[[0, 3, 1, 2, 4, 5, *range(6, 12)]], "expected stacks of 4 that go on by one frame a step"),
        (FRAMES[:, :5], r"observations: expected the shape \(6, 5\), .* got \(5, 5\)"),
    ],
)
def test_unstack_lost_or_unordered_frames_are_refused(observations, match, tmp_path):
    with pytest.raises(UserError, match=match):
        list(read(write(tmp_path / "a.hdf5", observations), SPACES, stack=4))
