"""Recurrent agents, one with a memory as a plugin may bring it, and a task that cannot be solved without memory."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from lfd.agents.config import AgentConfig
from lfd.agents.memory import GRUSpec, Memory, MemorySpec
from lfd.agents.nets import PolicySpec, StateValueSpec
from lfd.nets import Activation

UNITS = 16  # of a memory


class Recall(gym.Env):
    """A sign is shown at the first of four steps; the action of the last must repeat it, for a reward of 1."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.sign, self.t = int(self.np_random.integers(2)), 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        over = self.t == 4
        return self._seen(), float(over and int(action) == self.sign), over, False, {}

    def _seen(self) -> Any:
        return np.array([2 * self.sign - 1 if self.t == 0 else 0, self.t == 3], np.float32)


gym.register("Recall-v0", Recall)


class LSTM(Memory):
    """PyTorch's LSTM, one step at a time; its state is a pair of tensors."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.features = units
        self.lstm = nn.LSTM(inputs, units, batch_first=True)

    def initial_state(self, number: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(number, self.features), torch.zeros(number, self.features)

    def forward(self, features: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, (hidden, cell) = self.lstm(features.unsqueeze(1), tuple(part.unsqueeze(0) for part in state))
        return output.squeeze(1), (hidden.squeeze(0), cell.squeeze(0))


@dataclass
class LSTMSpec(MemorySpec):
    """The memory of a third party."""

    units: int = UNITS

    def build(self, inputs: int) -> LSTM:
        return LSTM(inputs, self.units)


def remembering(memory: MemorySpec | None = None) -> AgentConfig:
    """An agent with a memory in front of policy and value."""
    nets = {"policy": PolicySpec(hidden=[16]), "value": StateValueSpec(hidden=[16])}
    return AgentConfig(nets, memory or GRUSpec(UNITS), activation=Activation.tanh, orthogonal=True)
