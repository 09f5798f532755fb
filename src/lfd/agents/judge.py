"""Learnt rewards: the network, and an agent that has nothing else."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import Agent, AgentSpec
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.nets import Activation, OneHot, encoder, features_of, mlp


class Inputs(Enum):
    """What a reward may look at."""

    obs = "obs"
    obs_action = "obs_action"
    obs_next_obs = "obs_next_obs"

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of a batch."""
        return {"obs": ("obs",), "obs_action": ("obs", "action"), "obs_next_obs": ("obs", "next_obs")}[self.value]


class Features(nn.Module):
    """What a reward is shown of prepared transitions: `size` numbers each; discrete actions are one-hot."""

    recordable = True

    def __init__(self, spaces: Spaces, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.encoder = encoder(spaces.observation)
        self.size = features_of(self.encoder)
        self.one_hot = OneHot(int(spaces.action.n)) if spaces.actions == "discrete" else None  # type: ignore[attr-defined]
        if inputs is Inputs.obs_action:
            self.size += self.one_hot.features if self.one_hot else int(spaces.action.shape[0])  # type: ignore[index]
        elif inputs is Inputs.obs_next_obs:
            self.size *= 2

    def features(self, batch: Batch) -> Tensor:
        """[B, size] encoded observations beside what else `inputs` names."""
        seen = [self.encoder(batch.obs)]
        if self.inputs is Inputs.obs_action:
            # As the environment takes it: a Gaussian policy reaches beyond the bounds, recorded actions do not.
            seen.append(self.one_hot(batch.action) if self.one_hot else batch.action.clamp(-1, 1))
        elif self.inputs is Inputs.obs_next_obs:
            seen.append(self.encoder(batch.next_obs))
        return torch.cat(seen, dim=-1)


class RewardNet(Features):
    """A number for each prepared transition [B, ...] -> [B]."""

    recordable = True

    def __init__(self, spaces: Spaces, hidden: list[int], activation: Activation, inputs: Inputs) -> None:
        super().__init__(spaces, inputs)
        self.head = mlp([self.size, *hidden, 1], activation)

    def forward(self, batch: Batch) -> Tensor:
        reward: Tensor = self.head(self.features(batch)).squeeze(-1)
        return reward


class RecurrentReward(nn.Module, ABC):
    """A reward that depends on what its episode did before: it is asked for each step once, in their order."""

    @abstractmethod
    def initial_state(self, number: int) -> Tensor:
        """[number, D] what it remembers at the start of so many episodes."""

    @abstractmethod
    def forward(self, batch: Batch, state: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards [B] of prepared transitions, the next one of each episode, and the state behind them [B, D]."""


class Judge(Agent):
    """Has no module but the reward that a loss brings, beside the statistics of what it sees."""

    recordable = True


@dataclass
class JudgeSpec(AgentSpec):
    acts: ClassVar[bool] = False

    def build(self, spaces: Spaces) -> Judge:
        return Judge(spaces, {})
