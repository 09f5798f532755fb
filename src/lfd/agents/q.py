"""Agents with values of discrete actions."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent, AgentSpec
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.nets import Activation, Net
from lfd.noise import Noise


class DiscreteValues(Agent):
    """An agent that values all actions at once: group "q"."""

    def q(self, obs: Observation) -> Tensor:
        """[B, A]"""
        values: Tensor = self.net("q", obs)
        return values

    @torch.no_grad()
    def target_q(self, obs: Observation) -> Tensor:
        """[B, A] of the slow copy."""
        values: Tensor = self.net("q", obs, target=True)
        return values


class QAgent(DiscreteValues):
    """Acts by the largest of its action values."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "QNet") -> None:
        super().__init__(spaces, {})
        self.nets["q"] = Net(spaces.observation, spec.hidden, self.action_size, spec.activation)

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, noise: Noise | None) -> tuple[Tensor, Any]:
        return self.q(self.observe(obs)).argmax(-1), state


@dataclass
class QNet(AgentSpec):
    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    hidden: list[int] = field(
        default_factory=lambda: [128, 128]
    )  # units of each hidden layer; none behind the Nature CNN
    activation: Activation = Activation.relu

    def build(self, spaces: Spaces) -> QAgent:
        return QAgent(spaces, self)
