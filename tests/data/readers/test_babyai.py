"""Reading BabyAI's pickled demonstrations."""

from __future__ import annotations

import pickle
import sys
import zlib
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import pytest

from lfd.data import read
from lfd.data.readers import declared_spaces
from lfd.data.survey import survey
from lfd.envs import MiniGrid
from lfd.envs.minigrid import VOCABULARY
from lfd.envs.spaces import Cells, Words
from lfd.errors import UserError

try:
    import blosc
except ImportError:  # any packing shows that the reader undoes it
    blosc = SimpleNamespace(compress=zlib.compress, decompress=zlib.decompress)
MISSIONS = ("go to the red ball", "go to a dragon", "pick up the box on your left")


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "blosc", blosc)


def pack(images):
    return blosc.compress(pickle.dumps(images), 1)


def demonstrations():
    """Three episodes of 2, 3 and 4 steps."""
    rng = np.random.default_rng(0)
    return [
        (
            mission,
            pack(np.stack([rng.integers(n, size=(steps, 7, 7)) for n in (11, 6, 3)], -1).astype(np.uint8)),
            [step % 4 for step in range(steps)],
            [2] * steps,
        )
        for steps, mission in enumerate(MISSIONS, 2)
    ]


@pytest.fixture
def write(tmp_path):
    def build(content):
        (tmp_path / "demos.pkl").write_bytes(pickle.dumps(content))
        return tmp_path / "demos.pkl"

    return build


def test_read_babyai_demonstrations_are_successes_without_final_observations(write):
    spaces = MiniGrid("BabyAI-PickupLoc-v0", mission_length=9).spaces()
    content = demonstrations()
    episodes = list(read(write(content), spaces))
    assert [(len(e), e.terminated, e.truncated, e.has_final_observation) for e in episodes] == [
        (steps, True, False, False) for steps in (2, 3, 4)
    ]
    assert [e.rewards.tolist() for e in episodes] == [[0, 1], [0, 0, 1], [0, 0, 0, 1]]
    words = spaces.observation["mission"]
    assert [words.decode(e.observations["mission"][-1]) for e in episodes] == [
        MISSIONS[0], "go to a ?", MISSIONS[2]
    ]  # fmt: skip
    assert episodes[2].observations["direction"].tolist() == [0, 1, 2, 3] and episodes[2].actions.tolist() == [2] * 4
    images = pickle.loads(blosc.decompress(content[1][1]))
    np.testing.assert_array_equal(episodes[1].observations["image"], images)


def test_read_babyai_time_limit_gives_minigrids_reward(write):
    (episode, *_) = read(write(demonstrations()), max_episode_steps=64)
    np.testing.assert_allclose(episode.rewards, [0, 1 - 0.9 * 2 / 64], rtol=1e-6)


def test_read_babyai_without_environment_declares_spaces(write):
    path = write(demonstrations())
    observation = declared_spaces(path).spaces.observation
    assert observation["image"] == Cells((7, 7), (11, 6, 4)) and observation["mission"] == Words(VOCABULARY, 7)
    assert survey(path)[0].lengths["episodes"] == 3


def test_read_babyai_without_mission_in_the_space_leaves_it_out(write):
    spaces = MiniGrid("BabyAI-GoToLocal-v0", mission=False).spaces()
    assert set(next(iter(read(write(demonstrations()), spaces))).observations) == {"image", "direction"}


def test_read_babyai_enumerated_actions_are_numbers(write, monkeypatch):
    class Actions(IntEnum):
        left = 0
        forward = 2

    Actions.__module__, Actions.__qualname__ = "minigrid.core.actions", "Actions"
    monkeypatch.setattr("minigrid.core.actions.Actions", Actions)
    ((mission, images, directions, _), *_) = demonstrations()
    path = write([(mission, images, directions, [Actions.forward, Actions.left])])
    assert b"minigrid.core.actions" in path.read_bytes()
    assert next(iter(read(path))).actions.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda item: (*item[:1], item[1][:20], *item[2:]), "is damaged"),
        (lambda item: (*item[:1], blosc.compress(pickle.dumps([1])), *item[2:]), "got other content .*1 images"),
        (lambda item: (*item[:1], blosc.compress(pickle.dumps(pickle.Pickler)), *item[2:]), "got _pickle.Pickler"),
        (lambda item: item[:3], "got other content"),
        (lambda item: (*item[:3], item[3][:-1]), "3 images, 3 directions and 2 actions"),
        (lambda item: (*item[:3], ["left", "left", "left"]), "got other content"),
        (lambda item: ("go " * 9, *item[1:]), "at most 5 words, got 9"),
        (lambda item: (item[0], pack(np.full((3, 7, 7, 3), 200, np.uint8)), *item[2:]), "expected indices of Cells"),
    ],
)
def test_read_babyai_damaged_demonstrations_are_refused(write, change, words):
    content = demonstrations()
    content[1] = change(content[1])
    content[2] = content[0]
    with pytest.raises(UserError, match=words):
        list(read(write(content), MiniGrid("BabyAI-GoToLocal-v0", mission_length=5).spaces()))


def test_read_babyai_without_blosc_is_refused(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "blosc", None)
    with pytest.raises(UserError, match=r'need blosc, which is not installed: pip install -e "\.\[blosc\]"'):
        list(read(write(demonstrations())))
