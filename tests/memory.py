"""A recurrent agent, as a plugin may bring it, and a task that cannot be solved without memory."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from lfd.agents import AgentSpec
from lfd.agents.actor_critic import ActorCritic, PolicyValue
from lfd.batch import Batch
from lfd.envs import Spaces


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
UNITS = 16


class Remembering(ActorCritic):
    """A gated cell in front of policy and value, trained by the sum of their terms."""

    def __init__(self, spaces: Spaces) -> None:
        size = spaces.observation.shape[0]
        seen = Spaces(gym.spaces.Box(-1, 1, (UNITS,), np.float32), spaces.action)
        super().__init__(seen, PolicyValue([16]))
        self.spaces = spaces
        self.nets["memory"] = nn.GRUCell(size, UNITS)
        self.shared = {"memory": ("policy", "value")}

    def initial_state(self, number: int) -> Tensor:
        return torch.zeros(number, UNITS)

    def act(self, obs: Any, state: Any, noise: Any) -> Any:
        with torch.no_grad():
            state = self.nets["memory"](self.normalize_obs(obs), state)
            policy = self.distribution(state)
        return (policy.mode() if noise is None else policy.sample(noise)), state

    def unroll(self, batch: Batch) -> Batch:
        cell, (size, length) = self.nets["memory"], batch.first.shape
        state = batch.state if "state" in batch.__dict__ else self.initial_state(size)
        seen, following = [], []
        for t in range(length):
            state = cell(batch.obs[:, t], torch.where(batch.first[:, t, None], 0.0, state))
            seen.append(state)
            if "next_obs" in batch.__dict__:
                following.append(cell(batch.next_obs[:, t], state))
        rows = {name: column.flatten(0, 1) for name, column in batch.__dict__.items() if name not in ("state", "obs")}
        rows["obs"] = torch.stack(seen, 1).flatten(0, 1)
        if following:
            rows["next_obs"] = torch.stack(following, 1).flatten(0, 1)
        return Batch(**rows)


@dataclass
class Memory(AgentSpec):
    def build(self, spaces: Spaces) -> Remembering:
        return Remembering(spaces)
