"""Agents that judge and do not act."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent, AgentSpec
from lfd.batch import Batch, Observation
from lfd.envs.spaces import Spaces
from lfd.maths import taken
from lfd.nets import Activation, Net

POLICY = "policy"  # the role of the frozen policy that is judged


class Critic(Agent):
    """One action value, of discrete or continuous actions: group "critic"."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "CriticNet") -> None:
        super().__init__(spaces, {})
        size = self.action_size
        outputs, extra = (1, size) if self.continuous else (size, 0)
        self.nets["critic"] = Net(spaces.observation, spec.hidden, outputs, spec.activation, extra=extra)

    def value(self, obs: Observation, action: Tensor, target: bool = False) -> Tensor:
        """Q(obs, action) [B] in network units; with `target` of the slow copy."""
        if self.continuous:
            values: Tensor = self.net("critic", obs, action, target=target)
            return values.squeeze(-1)
        return taken(self.net("critic", obs, target=target), action)

    @torch.no_grad()
    def chosen(self, obs: Observation) -> Tensor:
        """The action of the policy that is judged, at its best; observations and actions in network units."""
        policy = self.frozen[POLICY]
        # A policy may look through a normaliser of its own, and answers in units of the space.
        raw = self.raw(Batch(obs=obs)).obs
        first = next(iter(raw.values())) if isinstance(raw, dict) else raw
        action, _ = policy.act(raw, policy.initial_state(len(first)), None)
        chosen = self.prepare(Batch(action=action)).action
        # As an environment takes it: the mean of a Gaussian may lie far outside the bounds.
        return chosen.clamp(-1, 1) if self.continuous else chosen


@dataclass
class CriticNet(AgentSpec):
    acts: ClassVar[bool] = False
    hidden: list[int] = field(
        default_factory=lambda: [128, 128]
    )  # units of each hidden layer; none behind the Nature CNN
    activation: Activation = Activation.relu

    def build(self, spaces: Spaces) -> Critic:
        return Critic(spaces, self)
