from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest

from lfd.data import Episode
from lfd.data.episode import cut
from lfd.envs import Spaces
from lfd.envs.sync import Sync
from lfd.episodes import play
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
    """A policy that counts its waves."""

    waves: int = 0

    def __call__(self):
        self.waves += 1
        return lambda obs: np.zeros(len(obs["a"]), np.int64)


@pytest.fixture
def env():
    return Sync(Telling, Spaces(Telling.observation_space, Telling.action_space), 2, autoreset=False)


def test_one_episode_a_seed_in_waves_with_policies_of_their_own(env):
    policy = Once()
    played = play(env, policy, [4, 5, 6], keep=True)
    assert [one.success for one in played] == [1.0, 0.0, 1.0]
    assert [one.value for one in played] == [3.0] * 3 and policy.waves == 2
    episode = played[0].episode
    assert episode.terminated and not episode.truncated
    assert episode.observations["a"][:, 0].tolist() == episode.observations["b"].tolist() == [0, 1, 2, 3]


def test_no_data_unless_asked_for(env):
    assert play(env, Once(), [1])[0].episode is None


def test_it_stops_between_two_steps(env):
    asked = iter([False, False])
    with pytest.raises(Interrupted):
        play(env, Once(), [1], stopping=lambda: next(asked, True))


def test_a_cut_episode_ends_in_neither_way_and_keeps_its_next_observation():
    whole = Episode(np.arange(6.0)[:, None], np.arange(5), np.ones(5, np.float32), True, False, {"x": np.arange(5)})
    shorter = cut(whole, 3)
    assert (shorter.terminated, shorter.truncated) == (False, False)
    assert shorter.observations[:, 0].tolist() == [0, 1, 2, 3] and shorter.infos["x"].tolist() == [0, 1, 2]
    assert cut(whole, 5) is whole
