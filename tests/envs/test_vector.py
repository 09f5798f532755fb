"""No transition crosses a reset, whoever resets and whenever."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lfd.envs import Gym
from lfd.envs.spaces import simplified
from lfd.envs.sync import Sync
from lfd.envs.vector import VecEnv
from lfd.envs.vectorised import Vectorised


class Counting(gym.Env[Any, Any]):
    """Observes (seed, episode, step), the reward is the step; even episodes end at 3, odd ones are cut off at 2."""

    def __init__(self, dict_obs: bool = False, action: gym.Space[Any] | None = None) -> None:
        self._dict = dict_obs
        vector = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.observation_space = gym.spaces.Dict(inner=gym.spaces.Dict(a=vector)) if dict_obs else vector
        self.action_space = action or gym.spaces.Discrete(2)
        self._seed, self._episode, self._step = -1, 0, 0
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._episode += 1
        self._step = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        self._step += 1
        cut = self._episode % 2 == 1 and self._step == 2
        over = self._step == 3
        return self._obs(), float(self._step), over, cut, {"is_success": over}

    def _obs(self) -> Any:
        vector = np.array([self._seed, self._episode, self._step], np.float64)
        return {"inner": {"a": vector}} if self._dict else vector


class Both(Counting):
    """Is cut off in the very step in which it ends."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, over, _, info = super().step(action)
        return obs, reward, over, over, info


def make(mode: AutoresetMode | None, env: Any = Counting, **kwargs: Any) -> VecEnv:
    """Three environments; `None` is our own loop."""
    single = env(**kwargs)
    spaces = simplified(single.observation_space, single.action_space, "counting")
    if mode is None:
        return Sync(lambda: env(**kwargs), spaces, 3, autoreset=True)
    return Vectorised(SyncVectorEnv([lambda: env(**kwargs)] * 3, autoreset_mode=mode, copy=False), spaces)


MODES = [None, *AutoresetMode]


@pytest.mark.parametrize("dict_obs", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_transition_stays_in_its_episode(mode: AutoresetMode | None, dict_obs: bool) -> None:
    def rows(seen: Any) -> Any:
        return seen["inner_a"] if dict_obs else seen

    env = make(mode, dict_obs=dict_obs)
    obs = rows(env.reset([10, 20, 30]))
    assert obs.dtype == np.float32
    ends = []
    finished = []
    for _ in range(24):
        before = obs.copy()
        step = env.step(np.zeros(3, np.int64))
        after, obs = rows(step.next_obs), rows(step.obs)
        for i in np.flatnonzero(step.valid):
            np.testing.assert_array_equal(after[i], before[i] + [0, 0, 1])
            assert step.reward[i] == after[i, 2]
            if step.terminated[i] or step.truncated[i]:
                ends.append((i, *after[i, 1:], bool(step.terminated[i]), bool(step.truncated[i])))
        for i in np.flatnonzero(~step.valid):
            assert mode is AutoresetMode.NEXT_STEP
            assert not step.terminated[i] and not step.truncated[i] and step.reward[i] == 0
            np.testing.assert_array_equal(obs[i], [before[i, 0], before[i, 1] + 1, 0])
        finished += step.finished
        assert {i for i, *_ in step.finished} == set(np.flatnonzero(step.terminated | step.truncated))
    # even episodes end by themselves after 3 steps with return 6, odd ones are cut off after 2 with return 3
    assert {end[0] for end in ends} == {0, 1, 2} and len(ends) >= 18
    assert all((t, u) == ((1, 0) if episode % 2 == 0 else (0, 1)) for _, episode, _, t, u in ends)
    assert [(value, length) for i, value, length in finished if i == 0][:4] == [(6, 3), (3, 2)] * 2


@pytest.mark.parametrize("mode", MODES)
def test_an_end_that_is_both_is_a_termination(mode: AutoresetMode | None) -> None:
    env = make(mode, Both)
    env.reset([1, 2, 3])
    for _ in range(3):
        step = env.step(np.zeros(3, np.int64))
    assert step.terminated.all() and not step.truncated.any()


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_begins_new_tallies(mode: AutoresetMode | None) -> None:
    env = make(mode)
    for _ in range(2):
        env.reset([1, 2, 3])
        env.step(np.zeros(3, np.int64))
    env.step(np.zeros(3, np.int64))
    assert env.step(np.zeros(3, np.int64)).finished == [(i, 6.0, 3) for i in range(3)]


@pytest.mark.parametrize("mode", MODES)
def test_what_was_returned_never_changes(mode: AutoresetMode | None) -> None:
    env = make(mode)
    env.reset([1, 2, 3])
    step = env.step(np.zeros(3, np.int64))
    kept = step.next_obs.copy(), step.reward.copy()
    for _ in range(5):
        env.step(np.zeros(3, np.int64))
    np.testing.assert_array_equal(step.next_obs, kept[0])
    np.testing.assert_array_equal(step.reward, kept[1])


def test_without_autoreset_a_finished_env_idles_until_it_is_reset() -> None:
    made: list[Counting] = []

    def single() -> Counting:
        made.append(Counting())
        return made[-1]

    spaces = simplified(Counting().observation_space, Counting().action_space, "counting")
    env = Sync(single, spaces, 2, autoreset=False)
    env.reset([5, 6])
    for _ in range(3):
        step = env.step(np.zeros(2, np.int64))
    assert step.terminated.all() and step.valid.all()
    np.testing.assert_array_equal(env.reset_one(1, 9), [9, 0, 0])
    step = env.step(np.zeros(2, np.int64))
    assert step.valid.tolist() == [False, True]
    assert not step.terminated.any() and step.finished == [] and step.reward.tolist() == [0, 1]
    np.testing.assert_array_equal(step.obs, [[5, 0, 3], [9, 0, 1]])
    assert len(made[0].taken) == 3


def test_training_envs_refuse_reset_one() -> None:
    for mode in MODES:
        with pytest.raises(RuntimeError, match="reset themselves"):
            make(mode).reset_one(0, 1)


@pytest.mark.parametrize("mode", [None, AutoresetMode.SAME_STEP])
def test_continuous_actions_are_clipped_and_shaped(mode: AutoresetMode | None) -> None:
    box = gym.spaces.Box(-1, np.array([[1, 1], [2, 2]]), (2, 2), np.float64)
    taken = []

    class Watched(Counting):
        def step(self, action: Any) -> Any:
            taken.append(action.copy())
            return super().step(action)

    env = make(mode, Watched, action=box)
    assert env.spaces.action.shape == (4,)
    env.reset([1, 2, 3])
    env.step(np.tile(np.array([-3, 0.5, 3, 1.5], np.float32), (3, 1)))
    assert taken[0].shape == (2, 2) and taken[0].dtype == np.float64
    np.testing.assert_allclose(taken[0], [[-1, 0.5], [2, 1.5]])


def test_success_is_told_as_the_environment_tells_it() -> None:
    env = make(None)
    env.reset([1, 2, 3])
    told = [env.step(np.zeros(3, np.int64)).infos["success"] for _ in range(3)]
    np.testing.assert_array_equal(told, [[0] * 3, [0] * 3, [1] * 3])
    silent = Gym("CartPole-v1").make(1, training=True)
    silent.reset([1])
    assert silent.step(np.zeros(1, np.int64)).infos == {}
