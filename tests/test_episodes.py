"""Whole episodes: one for each seed, in batches; cut episodes, success, and labels."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest

from lfd.data import Episode
from lfd.data.episode import cut_episode
from lfd.envs import MiniGrid, Spaces, Step
from lfd.envs.sync_vec_env import SyncVecEnv
from lfd.episodes import (
    EpisodeRecorder,
    LabelingPolicy,
    PlayedEpisode,
    holds_transitions,
    play,
    success_by_mission,
    success_rates,
    summarize,
)
from lfd.errors import Interrupted


class Telling(gym.Env):
    """Three steps; says only at the second whether it was a success: yes where the seed was even."""

    observation_space = gym.spaces.Dict({"a": gym.spaces.Box(0, 9, (1,), np.float32), "b": gym.spaces.Discrete(9)})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        return self._seen(), {}

    def step(self, action):
        self.t += 1
        info = {"is_success": self.seed % 2 == 0} if self.t == 2 else {}
        return self._seen(), 1.0, self.t == 3, False, info

    def _seen(self):
        return {"a": np.array([self.t], np.float32), "b": self.t}


@dataclass
class Once:
    """A policy that counts the batches of episodes."""

    batches: int = 0

    def __call__(self):
        self.batches += 1
        return lambda obs: np.zeros(len(obs["a"]), np.int64)


class Labeling(LabelingPolicy):
    """Takes action 0; the labels are how often it was asked."""

    def __init__(self):
        self.labels = np.zeros(2, np.int64)

    def __call__(self, obs):
        self.labels = self.labels + 1
        return np.zeros(2, np.int64)


@pytest.fixture
def env():
    return SyncVecEnv(Telling, Spaces(Telling.observation_space, Telling.action_space), 2, autoreset=False)


def test_play_returns_one_episode_per_seed_with_a_policy_per_batch(env):
    policy = Once()
    played = play(env, policy, [4, 5, 6], keep=True)
    assert [one.success for one in played] == [1.0, 0.0, 1.0]
    assert [one.episode_return for one in played] == [3.0] * 3 and policy.batches == 2
    episode = played[0].episode
    assert episode.terminated and not episode.truncated
    assert episode.observations["a"][:, 0].tolist() == episode.observations["b"].tolist() == [0, 1, 2, 3]


def test_play_without_keep_returns_no_data(env):
    assert play(env, Once(), [1])[0].episode is None


def test_play_stops_between_steps_on_request(env):
    asked = iter([False, False])
    with pytest.raises(Interrupted, match="stopped while episodes were played"):
        play(env, Once(), [1], stopping=lambda: next(asked, True))


def test_cut_episode_is_neither_terminated_nor_truncated():
    whole = Episode(np.arange(6.0)[:, None], np.arange(5), np.ones(5, np.float32), True, False, {"x": np.arange(5)})
    shorter = cut_episode(whole, 3)
    assert (shorter.terminated, shorter.truncated) == (False, False)
    assert shorter.observations[:, 0].tolist() == [0, 1, 2, 3] and shorter.infos["x"].tolist() == [0, 1, 2]
    assert cut_episode(whole, 5) is whole


def recorder(length, running):
    made, false = EpisodeRecorder(None, False, 1), np.zeros(1, bool)
    for step in range(1, length + 1):
        over = np.array([step == length and not running])
        made.add_step(0, None, Step(None, None, np.ones(1), over, false, ~false, [], {}))
    return made


@pytest.mark.parametrize(
    ("recorders", "covers"),
    [
        ([(10, True)], True), ([(9, True), (9, False)], False),  # the first may go on and be all that is kept
        ([(4, False), (6, True)], True), ([(4, False), (5, True), (9, False)], False), ([(4, False), (6, False)], True),
        ([(4, False), (5, False)], False),
    ],
)  # fmt: skip
def test_holds_transitions_is_true_only_if_no_running_episode_can_change_them(recorders, covers):
    assert holds_transitions([recorder(*one) for one in recorders], 10) == covers


def test_play_cuts_episodes_once_there_is_enough(env):
    played = play(env, Once(), [4, 5], keep=True, enough=lambda recorders: recorders[0].length == 2)
    assert [one.length for one in played] == [2, 2]
    assert not (played[0].episode.terminated or played[0].episode.truncated)
    assert played[0].episode.observations["a"][:, 0].tolist() == [0, 1, 2]


class Button(Telling):
    """Success at the first step alone, if at all."""

    def step(self, action):
        obs, reward, over, cut, _ = super().step(action)
        return obs, reward, over, cut, {"success": self.t == 1 and self.seed % 2 == 0}


def test_success_is_reported_at_the_end_and_at_any_step():
    env = SyncVecEnv(Button, Spaces(Telling.observation_space, Telling.action_space), 2, autoreset=False)
    played = play(env, Once(), [2, 3])
    assert [(one.success, one.succeeded) for one in played] == [(0.0, 1.0), (0.0, 0.0)]
    assert success_rates(played) == {"success_rate": 0.0, "success_once_rate": 0.5}
    assert success_rates([PlayedEpisode(1.0, 1, None, None)]) == {"success_rate": None, "success_once_rate": None}


def test_labeling_policy_stores_labels_instead_of_actions(env, monkeypatch):
    taken, step = [], SyncVecEnv.step
    monkeypatch.setattr(SyncVecEnv, "step", lambda self, action: taken.append(action.tolist()) or step(self, action))
    played = play(env, Labeling, [4, 5], keep=True)
    assert [one.episode.actions.tolist() for one in played] == [[1, 2, 3]] * 2
    assert taken == [[0, 0]] * 3


def test_success_by_mission_counts_kinds():
    def played(mission, success):
        return PlayedEpisode(success, 4, success, None, success, mission)

    episodes = [
        played("go to the red ball", 1.0), played("go to a blue key", 0.0), played("open the red door", 1.0),
        PlayedEpisode(0.0, 9, 0.0, None),
    ]  # fmt: skip
    assert success_by_mission(episodes) == {
        "go to a COLOR OBJECT": {"episodes": 2, "success_rate": 0.5},
        "open a COLOR OBJECT": {"episodes": 1, "success_rate": 1.0},
    }
    summary = summarize([[1.0, 0.0, 1.0, 0.0]], episodes)
    assert summary["by_mission"] == success_by_mission(episodes) and summary["success_length_mean"] == 4
    rest = summarize([[0.0]], [PlayedEpisode(0.0, 9, None, None)])
    assert not {"by_mission", "success_length_mean"} & rest.keys()


def test_play_tells_the_mission_of_each_episode():
    env = MiniGrid("BabyAI-GoToLocal-v0", mission_length=5).make(2, training=False)
    left = np.zeros(2, np.int64)
    missions = [episode.mission for episode in play(env, lambda: lambda obs: left, [1, 2, 3])]
    assert len(set(missions)) > 1 and all(mission.startswith("go to ") for mission in missions)
