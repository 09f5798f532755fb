"""Agents with values of discrete actions."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent, AgentSpec
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.nets import Activation, Net
from lfd.rng import Rng


class DiscreteValues(Agent):
    """An agent with values of all discrete actions: group "q"."""

    def q(self, obs: Observation) -> Tensor:
        """Action values [B, A]."""
        values: Tensor = self.net("q", obs)
        return values

    @torch.no_grad()
    def target_q(self, obs: Observation) -> Tensor:
        """Action values [B, A] of the target network."""
        values: Tensor = self.net("q", obs, target=True)
        return values


class QAgent(DiscreteValues):
    """Takes the action of largest value."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "QNet") -> None:
        super().__init__(spaces, {})
        self.nets["q"] = Net(spaces.observation, spec.hidden, self.action_size, spec.activation)

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, rng: Rng | None) -> tuple[Tensor, Any]:
        return self.q(self.normalize_obs(obs)).argmax(-1), state


@dataclass
class QNet(AgentSpec):
    """Values of all discrete actions, for DQN and its offline variants."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    hidden: list[int] = field(default_factory=lambda: [128, 128])  # units per hidden layer; unused behind a CNN
    activation: Activation = Activation.relu  # of hidden layers

    def build(self, spaces: Spaces) -> QAgent:
        return QAgent(spaces, self)
