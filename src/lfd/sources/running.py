"""Learnt rewards with memory: each step is paid once, in the order of its episode, and what was paid stays."""

from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor

from lfd.agents import REWARD, Agent
from lfd.agents.judge import RecurrentReward
from lfd.batch import Batch, tensors
from lfd.envs.vector import Array, Step


@final
class RunningReward:
    """Pays episodes that run side by side, one in each lane."""

    def __init__(self, judge: Agent, reward: RecurrentReward, lanes: int) -> None:
        self._judge, self._reward = judge, reward
        self._state = self._fresh = reward.initial_state(lanes)

    @classmethod
    def of(cls, agent: Agent, lanes: int) -> Self | None:
        """None unless a reward with memory takes the place of the environment's."""
        judge = agent.judge()
        reward = None if judge is None else judge.nets[REWARD]
        return cls(judge, reward, lanes) if judge is not None and isinstance(reward, RecurrentReward) else None

    def restart(self) -> None:
        """An episode begins in every lane."""
        self._state = self._fresh

    @torch.no_grad()
    def pay(self, transitions: Batch, over: Tensor) -> Tensor:
        """[N] rewards of each lane's next raw transition; where `over` [N], the lane's next episode follows."""
        answer: tuple[Tensor, Tensor] = self._reward(self._judge.prepare(transitions), self._state)
        reward, state = answer
        self._state = torch.where(over.unsqueeze(-1), self._fresh, state)
        return reward

    def pay_step(self, obs: Any, action: Array, step: Step, gamma: float) -> Array:
        """[N] float32 for what environments made of an observation and an action; 0 where that was no transition."""
        device, over = self._fresh.device, step.terminated | step.truncated | ~step.valid
        discount = (gamma * ~step.terminated).astype(np.float32)
        made = {"obs": obs, "action": action, "next_obs": step.next_obs, "discount": discount}
        transitions = Batch(**{name: tensors(column, device) for name, column in made.items()})
        paid = self.pay(transitions, tensors(over, device)).cpu().numpy()
        return np.where(step.valid, paid, 0).astype(np.float32)
