"""MiniGrid and BabyAI: word ids of missions, success and time limits."""

import gymnasium as gym
import numpy as np
import pytest

from lfd.envs import MiniGrid
from lfd.envs.minigrid import VOCABULARY, kind_of_mission
from lfd.envs.spaces import Cells, Words
from lfd.errors import UserError

WORDS = Words(VOCABULARY, 7)


def test_mission_word_ids_are_fixed() -> None:
    # trained agents depend on these ids
    assert len(VOCABULARY) == len(set(VOCABULARY)) and VOCABULARY[:3] == ("a", "after", "and")
    assert WORDS.encode("go to the red ball").tolist() == [10, 27, 25, 23, 4, 0, 0]
    assert WORDS.encode("Go to the RED ball, then").tolist() == [10, 27, 25, 23, 4, 26, 0]
    assert VOCABULARY[30] == "your"


def test_kind_of_mission_names_no_color_and_no_object() -> None:
    assert kind_of_mission("go to the red ball") == kind_of_mission("go to a grey key") == "go to a COLOR OBJECT"
    assert kind_of_mission("pick up the box on your left") == "pick up a OBJECT on your left"


def test_mission_that_is_too_long_is_refused() -> None:
    env = MiniGrid("BabyAI-GoToLocal-v0", mission_length=4).make_single()
    with pytest.raises(UserError, match="at most 4 words, got 5; set a larger env.mission_length"):
        env.reset(seed=0)


def test_observation_contains_the_mission_of_the_episode() -> None:
    env = MiniGrid("BabyAI-GoToLocal-v0", mission_length=6).make(2, training=False)
    obs = env.reset([1, 2])
    words = [[VOCABULARY[i - 1] for i in row if i] for row in obs["mission"]]
    assert all(row[:2] == ["go", "to"] and len(row) == 5 for row in words) and words[0] != words[1]
    assert obs["image"].shape == (2, 7, 7, 3) and obs["direction"].shape == (2,)
    assert obs["direction"].dtype == np.int64
    space = env.spaces.observation
    assert space["image"] == Cells((7, 7), (11, 6, 4)) and space["mission"] == Words(VOCABULARY, 6)  # type: ignore[index]


def test_mission_false_removes_the_mission() -> None:
    space = MiniGrid("MiniGrid-Empty-5x5-v0", mission=False).spaces().observation
    assert isinstance(space, gym.spaces.Dict) and set(space.spaces) == {"image", "direction"}


def test_reset_hides_the_levels_that_babyai_rejects(capsys: pytest.CaptureFixture[str]) -> None:
    env = MiniGrid("BabyAI-BossLevel-v0")
    env.make_single().unwrapped.reset(seed=3)
    assert "rejected" in capsys.readouterr().out, "otherwise this test protects nothing"
    env.make(1, training=False).reset([3])
    assert capsys.readouterr() == ("", "")


def test_success_is_one_with_a_positive_reward() -> None:
    env = MiniGrid("MiniGrid-Empty-5x5-v0", mission=False).make(1, training=False)
    env.reset([0])
    forward, right = np.array([2]), np.array([1])
    steps = [env.step(action) for action in (forward, forward, right, forward, forward)]
    assert [float(step.infos["success"][0]) for step in steps] == [0, 0, 0, 0, 1]
    assert steps[-1].terminated[0] and steps[-1].reward[0] > 0.9


def test_time_limit_truncates_the_episode() -> None:
    env = MiniGrid("BabyAI-GoToLocal-v0").make(1, training=True)
    env.reset([0])
    ends = [env.step(np.array([0])) for _ in range(64)][-1]
    assert ends.truncated[0] and not ends.terminated[0] and ends.infos["success"][0] == 0


def test_action_names_are_those_of_minigrid() -> None:
    env = MiniGrid("BabyAI-GoToLocal-v0")
    assert env.action_names() == ["left", "right", "forward", "pickup", "drop", "toggle", "done"]
    assert len(env.action_names()) == env.spaces().action.n
