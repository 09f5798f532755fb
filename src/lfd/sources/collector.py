"""Steps training environments: resets by seed, recurrent state and statistics of episodes."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfd.batch import tensors
from lfd.envs.spaces import Array
from lfd.envs.vec_env import Step
from lfd.episodes import clip_action
from lfd.rng import GeneratorRng, derive, reset_seeds
from lfd.sources import Collector, SourceContext, StepRecorder
from lfd.sources.rewards import RewardSelector


class VecEnvCollector(Collector, ABC):
    """Acts with the only agent of its context in `num_envs` environments, which reset themselves."""

    def __init__(self, context: SourceContext, num_envs: int, constant_reward: float | None = None) -> None:
        super().__init__()
        assert context.env is not None
        self.context = context
        self._env = context.env.make(num_envs, training=True)
        self._rewards = RewardSelector(context, constant_reward, num_envs)
        self._rng = GeneratorRng(derive(context.seed, "noise"), context.device)
        self._obs: Any = None  # [N, ...] present observations
        self._first: Array = np.ones(num_envs, np.bool_)  # [N] True at the first step of an episode
        self._memory: Any = ()  # [N, ...] recurrent state of the agent
        self._recorders: list[StepRecorder] = []

    @property
    def num_envs(self) -> int:
        return self._env.num_envs

    def record_to(self, recorder: StepRecorder) -> None:
        self._recorders.append(recorder)

    def reset_envs(self, index: int) -> None:
        count = self._env.num_envs
        self._obs = self._env.reset(reset_seeds(count, self.context.seed, "reset", index))
        self._first = np.ones(count, np.bool_)
        self._memory = self.context.agent.initial_state(count)
        self._rewards.restart()
        for recorder in self._recorders:
            recorder.reset(index, self._obs)

    def close(self) -> None:
        self._env.close()

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"rng": self._rng.state()}, {"env_steps": self.env_steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._rng.restore(tensors["rng"])
        self.env_steps = int(state["env_steps"])

    def _act(self) -> Tensor:
        """Returns the agent's actions [N, ...] and advances its recurrent state."""
        obs = tensors(self._obs, self.context.device)
        action, self._memory = self.context.agent.act(obs, self._memory, self._rng)
        return action

    def _act_exploring(self, epsilon: float, action_noise: float, random: bool = False) -> Tensor:
        """Returns actions [N, ...]: uniform ones if `random`, else the agent's with exploration.

        That is a fraction `epsilon` of random discrete actions, or Gaussian noise on continuous ones, of a standard
        deviation in halves of their range.
        """
        agent, count = self.context.agent, self.num_envs
        uniform = self._rng.uniform(count, 1 if agent.continuous is False else agent.action_size)
        if agent.continuous:
            if random:
                return agent.to_space(2 * uniform - 1)
            action = self._act()
            if action_noise:
                action = action + action_noise * agent.action_scale * self._rng.normal(*action.shape)
            low, high = agent.action_bias - agent.action_scale, agent.action_bias + agent.action_scale
            return torch.clamp(action, low, high)
        random_action = (uniform[:, 0] * agent.action_size).long()
        if random:
            return random_action
        action = self._act()
        explores = self._rng.uniform(count) < epsilon
        return torch.where(explores, random_action, action)

    def _step(self, action: Array) -> tuple[Step, Array]:
        """Takes actions [N, ...]; returns the environments' step and the rewards [N] to store."""
        step = self._env.step(action)
        reward = self._rewards.of_step(self._obs, action, step)
        if self._recorders:
            taken = clip_action(self._env.spaces, action)
            for recorder in self._recorders:
                recorder.add_step(taken, step, reward)
        self._obs = step.obs
        self._first = step.terminated | step.truncated | ~step.valid
        self._memory = self.context.agent.restart(self._memory, torch.from_numpy(self._first).to(self.context.device))
        self._ended += [(value, length) for _, value, length in step.finished]
        self.env_steps += int(step.valid.sum())
        return step, reward
