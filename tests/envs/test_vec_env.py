"""Vector environments: no transition crosses a reset, in every autoreset mode and in SyncVecEnv."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lfd.envs import Gym
from lfd.envs.gym_vec_env import GymVecEnv
from lfd.envs.spaces import simplify_spaces
from lfd.envs.sync_vec_env import SyncVecEnv
from lfd.envs.vec_env import VecEnv
from lfd.errors import UserError


class Counting(gym.Env[Any, Any]):
    """Observes (seed, episode, step); the reward is the step. Even episodes end at 3, odd ones are truncated at 2."""

    def __init__(self, dict_obs: bool = False, action: gym.Space[Any] | None = None) -> None:
        self._dict = dict_obs
        vector = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.observation_space = gym.spaces.Dict(inner=gym.spaces.Dict(a=vector)) if dict_obs else vector
        self.action_space = action or gym.spaces.Discrete(2)
        self._seed, self._episode, self._step = -1, 0, 0
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._episode += 1
        self._step = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        self._step += 1
        truncated = self._episode % 2 == 1 and self._step == 2
        terminated = self._step == 3
        return self._obs(), float(self._step), terminated, truncated, {"is_success": terminated}

    def _obs(self) -> Any:
        vector = np.array([self._seed, self._episode, self._step], np.float64)
        return {"inner": {"a": vector}} if self._dict else vector


class TerminatedAndTruncated(Counting):
    """Is truncated in the step in which it terminates."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, terminated, info


def make(mode: AutoresetMode | None, env: Any = Counting, **kwargs: Any) -> VecEnv:
    """Three environments; mode `None` is SyncVecEnv."""
    probe = env(**kwargs)
    spaces = simplify_spaces(probe.observation_space, probe.action_space, "counting")
    if mode is None:
        return SyncVecEnv(lambda: env(**kwargs), spaces, 3, autoreset=True)
    return GymVecEnv(SyncVectorEnv([lambda: env(**kwargs)] * 3, autoreset_mode=mode, copy=False), spaces)


MODES = [None, *AutoresetMode]


@pytest.mark.parametrize("dict_obs", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_step_transitions_stay_in_their_episode(mode: AutoresetMode | None, dict_obs: bool) -> None:
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
def test_step_terminated_and_truncated_is_a_termination(mode: AutoresetMode | None) -> None:
    env = make(mode, TerminatedAndTruncated)
    env.reset([1, 2, 3])
    for _ in range(3):
        step = env.step(np.zeros(3, np.int64))
    assert step.terminated.all() and not step.truncated.any()


@pytest.mark.parametrize("mode", MODES)
def test_reset_restarts_episode_stats(mode: AutoresetMode | None) -> None:
    env = make(mode)
    for _ in range(2):
        env.reset([1, 2, 3])
        env.step(np.zeros(3, np.int64))
    env.step(np.zeros(3, np.int64))
    assert env.step(np.zeros(3, np.int64)).finished == [(i, 6.0, 3) for i in range(3)]


@pytest.mark.parametrize("mode", MODES)
def test_step_results_do_not_change_in_later_steps(mode: AutoresetMode | None) -> None:
    env = make(mode)
    env.reset([1, 2, 3])
    step = env.step(np.zeros(3, np.int64))
    kept = step.next_obs.copy(), step.reward.copy()
    for _ in range(5):
        env.step(np.zeros(3, np.int64))
    np.testing.assert_array_equal(step.next_obs, kept[0])
    np.testing.assert_array_equal(step.reward, kept[1])


def test_sync_vec_env_without_autoreset_idles_after_an_episode_until_reset() -> None:
    envs: list[Counting] = []

    def make_env() -> Counting:
        envs.append(Counting())
        return envs[-1]

    spaces = simplify_spaces(Counting().observation_space, Counting().action_space, "counting")
    env = SyncVecEnv(make_env, spaces, 2, autoreset=False)
    env.reset([5, 6])
    envs[1]._episode = 1  # the second environment's episode is truncated after 2 steps
    for _ in range(2):
        step = env.step(np.zeros(2, np.int64))
    assert step.truncated.tolist() == [False, True] and step.valid.all()
    step = env.step(np.zeros(2, np.int64))
    assert step.valid.tolist() == [True, False] and step.terminated.tolist() == [True, False]
    assert step.finished == [(0, 6.0, 3)] and step.reward.tolist() == [3, 0]
    np.testing.assert_array_equal(step.obs, [[5, 0, 3], [6, 1, 2]])
    assert [handle.running for handle in env.handles()] == [False, False]
    np.testing.assert_array_equal(env.reset([7, 9]), [[7, 0, 0], [9, 0, 0]])
    assert env.step(np.zeros(2, np.int64)).valid.all() and len(envs[1].actions) == 3


def test_training_envs_refuse_handles() -> None:
    for mode in AutoresetMode:
        with pytest.raises(UserError, match="^expert: expected a trained expert, as a script reads single env"):
            make(mode).handles()


@pytest.mark.parametrize("mode", [None, AutoresetMode.SAME_STEP])
def test_step_continuous_actions_are_clipped_and_reshaped(mode: AutoresetMode | None) -> None:
    box = gym.spaces.Box(-1, np.array([[1, 1], [2, 2]]), (2, 2), np.float64)
    actions = []

    class Watched(Counting):
        def step(self, action: Any) -> Any:
            actions.append(action.copy())
            return super().step(action)

    env = make(mode, Watched, action=box)
    assert env.spaces.action.shape == (4,)
    env.reset([1, 2, 3])
    env.step(np.tile(np.array([-3, 0.5, 3, 1.5], np.float32), (3, 1)))
    assert actions[0].shape == (2, 2) and actions[0].dtype == np.float64
    np.testing.assert_allclose(actions[0], [[-1, 0.5], [2, 1.5]])


def test_step_infos_contain_success_only_if_the_environment_reports_it() -> None:
    env = make(None)
    env.reset([1, 2, 3])
    success = [env.step(np.zeros(3, np.int64)).infos["success"] for _ in range(3)]
    np.testing.assert_array_equal(success, [[0] * 3, [0] * 3, [1] * 3])
    without_success = Gym("CartPole-v1").make(1, training=True)
    without_success.reset([1])
    assert without_success.step(np.zeros(1, np.int64)).infos == {}
