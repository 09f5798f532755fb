"""The agent of fitted Q evaluation, which has a critic and no policy."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent, AgentSpec
from lfd.batch import Batch, Observation
from lfd.envs.spaces import Spaces
from lfd.maths import gather_action
from lfd.nets import Activation, Net

POLICY = "policy"  # role of the frozen policy that is evaluated


class Critic(Agent):
    """One action-value network of discrete or continuous actions: group "critic"."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "CriticNet") -> None:
        super().__init__(spaces, {})
        size = self.action_size
        outputs, extra = (1, size) if self.continuous else (size, 0)
        self.nets["critic"] = Net(spaces.observation, spec.hidden, outputs, spec.activation, extra=extra)

    def value(self, obs: Observation, action: Tensor, target: bool = False) -> Tensor:
        """Values [B] of actions at observations in network units; those of the target network with `target`."""
        if self.continuous:
            values: Tensor = self.net("critic", obs, action, target=target)
            return values.squeeze(-1)
        return gather_action(self.net("critic", obs, target=target), action)

    @torch.no_grad()
    def policy_action(self, obs: Observation) -> Tensor:
        """Greedy actions of the evaluated policy, [B] or [B, A]; observations and actions in network units."""
        policy = self.frozen[POLICY]
        # the policy normalizes observations by itself and returns actions in units of the space
        raw = self.unprocess(Batch(obs=obs)).obs
        first = next(iter(raw.values())) if isinstance(raw, dict) else raw
        action, _ = policy.act(raw, policy.initial_state(len(first)), None)
        action = self.preprocess(Batch(action=action)).action
        # clipped as in an environment: the mean of a Gaussian may lie far outside the bounds
        return action.clamp(-1, 1) if self.continuous else action


@dataclass
class CriticNet(AgentSpec):
    """One action-value network without a policy, for fitted Q evaluation."""

    acts: ClassVar[bool] = False
    hidden: list[int] = field(default_factory=lambda: [128, 128])  # units per hidden layer; unused behind a CNN
    activation: Activation = Activation.relu  # of hidden layers

    def build(self, spaces: Spaces) -> Critic:
        return Critic(spaces, self)
