"""Recurrent reward models in environments: a step's reward is computed once, in episode order, and stored."""

from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor

from lfd.agents import REWARD, Agent
from lfd.agents.reward_model import RecurrentReward
from lfd.batch import Batch, tensors
from lfd.envs.spaces import Array
from lfd.envs.vec_env import Step


@final
class RecurrentRewardModel:
    """Computes the rewards of `num_envs` episodes in parallel."""

    def __init__(self, model: Agent, reward: RecurrentReward, num_envs: int) -> None:
        self._model, self._reward = model, reward
        self._state = self._initial_state = reward.initial_state(num_envs)

    @classmethod
    def of(cls, agent: Agent, num_envs: int) -> Self | None:
        """The recurrent reward model that an agent is or has; None without one."""
        model = agent.reward_model()
        reward = None if model is None else model.nets[REWARD]
        return cls(model, reward, num_envs) if model is not None and isinstance(reward, RecurrentReward) else None

    def restart(self) -> None:
        """Begins an episode in every environment."""
        self._state = self._initial_state

    @torch.no_grad()
    def next_rewards(self, transitions: Batch, over: Tensor) -> Tensor:
        """Returns rewards [N] of the next raw transition of each episode; where `over` [N], a new episode begins."""
        result: tuple[Tensor, Tensor] = self._reward(self._model.preprocess(transitions), self._state)
        reward, state = result
        self._state = torch.where(over.unsqueeze(-1), self._initial_state, state)
        return reward

    def step_rewards(self, obs: Any, action: Array, step: Step, gamma: float) -> Array:
        """Returns float32 rewards [N] of an environment step; 0 where it was a reset and no transition."""
        device, over = self._initial_state.device, step.terminated | step.truncated | ~step.valid
        discount = (gamma * ~step.terminated).astype(np.float32)
        columns = {"obs": obs, "action": action, "next_obs": step.next_obs, "discount": discount}
        transitions = Batch(**{name: tensors(column, device) for name, column in columns.items()})
        rewards = self.next_rewards(transitions, tensors(over, device)).cpu().numpy()
        return np.where(step.valid, rewards, 0).astype(np.float32)
