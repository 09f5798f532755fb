"""Agents with a policy that clones the better actions of the data, and action values that weight them."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor, nn

from lfd.agents import AgentSpec, PolicyAgent
from lfd.agents.actor_critic import Head, PolicyNet
from lfd.agents.critics import ActionValues, Critics
from lfd.agents.distributions import Categorical, Distribution
from lfd.agents.q import DiscreteValues
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.maths import gather_action
from lfd.nets import Activation, Net, features_of, has_frames


class DiscreteCritics(nn.Module):
    """An ensemble of critics of discrete actions: values [B, critics] of observations and actions int64 [B]."""

    recordable = True

    def __init__(self, nets: list[Net]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, obs: Observation, action: Tensor, number: int | None = None) -> Tensor:
        """Values [B, number] of the first `number` critics, or of all."""
        return torch.stack([gather_action(net(obs), action) for net in self.nets[:number]], dim=-1)


class PolicyCriticAgent(PolicyAgent, ActionValues):
    """A policy and an ensemble of critics, for discrete or continuous actions: groups "policy" and "critic".

    A continuous policy is a Gaussian with a tanh mean and a standard deviation that does not depend on the observation.
    """

    recordable = True

    def __init__(self, spaces: Spaces, spec: "PolicyCritic") -> None:
        super().__init__(spaces, {})
        self._spec = spec
        policy, head = self.net_of(self.action_size), Head.tanh_mean_gaussian if self.continuous else None
        self.nets["policy"] = PolicyNet(policy, self.action_size, head, state_dependent=False)
        if self.continuous:
            self.nets["critic"] = Critics([self.net_of(1, extra=self.action_size) for _ in range(spec.critics)])
        else:
            self.nets["critic"] = DiscreteCritics([self.net_of(self.action_size) for _ in range(spec.critics)])

    def net_of(self, outputs: int, extra: int = 0) -> Net:
        """A new network of observations, and of `extra` further inputs, with the hidden layers of the others."""
        return Net(self.spaces.observation, self._spec.hidden, outputs, self._spec.activation, extra)

    def distribution(self, obs: Observation) -> Distribution:
        policy: Distribution = self.net("policy", obs)
        return policy

    def sample_action(self, obs: Observation) -> Tensor:
        """Sampled actions of the policy, [B] or [B, A], clipped to the bounds of the critics' data."""
        action = self.distribution(obs).sample(self.rng)
        return action.clamp(-1, 1) if self.continuous else action


@dataclass
class PolicyCritic(AgentSpec):
    """A policy and an ensemble of critics, for IQL, AWAC and CRR."""

    hidden: list[int] = field(default_factory=lambda: [256, 256])  # units per hidden layer; unused behind a CNN
    activation: Activation = Activation.relu  # of hidden layers
    critics: int = 2  # number of critics in the ensemble

    def __post_init__(self) -> None:
        if self.critics < 1:
            raise UserError(f"critics: expected 1 or more, got {self.critics}")

    def build(self, spaces: Spaces) -> PolicyCriticAgent:
        return PolicyCriticAgent(spaces, self)


class ValuesAndFeatures(nn.Module):
    """Action values [B, A], and the features [B, F] that they are computed from."""

    recordable = True

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, obs: Observation) -> tuple[Tensor, Tensor]:
        features = self.net.encoder(obs)
        return self.net.head(features), features


class PolicyQAgent(PolicyAgent, DiscreteValues):
    """A policy and the values of all discrete actions: groups "policy" and "q".

    Image observations are encoded once: the encoder belongs to "q" and is trained by the policy's losses too.
    """

    recordable = True

    def __init__(self, spaces: Spaces, spec: "PolicyQ") -> None:
        super().__init__(spaces, {})
        self._shares = has_frames(spaces.observation)
        values = Net(spaces.observation, spec.hidden, self.action_size, spec.activation)
        inputs: gym.Space[Any] | int = spaces.observation
        if self._shares:
            self.shared = {"q": ("policy",)}
            inputs = features_of(values.encoder)
        policy = Net(inputs, [] if self._shares else spec.hidden, self.action_size, spec.activation)
        self.nets["policy"] = PolicyNet(policy, self.action_size, None, state_dependent=False)
        self.nets["q"] = ValuesAndFeatures(values)

    def distribution(self, obs: Observation) -> Categorical:
        return self._policy(obs, target=False)

    @torch.no_grad()
    def target_distribution(self, obs: Observation) -> Categorical:
        """The policy of the target networks at observations [B, ...] in network units."""
        return self._policy(obs, target=True)

    def _policy(self, obs: Observation, target: bool) -> Categorical:
        inputs = self.net("q", obs, target=target)[1] if self._shares else obs
        policy: Categorical = self.net("policy", inputs, target=target)
        return policy

    def q(self, obs: Observation) -> Tensor:
        """Action values [B, A]."""
        values: Tensor = self.net("q", obs)[0]
        return values

    @torch.no_grad()
    def target_q(self, obs: Observation) -> Tensor:
        """Action values [B, A] of the target network."""
        values: Tensor = self.net("q", obs, target=True)[0]
        return values


@dataclass
class PolicyQ(AgentSpec):
    """A policy and the values of all discrete actions, for CRR combined with CQL."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    hidden: list[int] = field(default_factory=lambda: [128, 128])  # units per hidden layer; unused behind a CNN
    activation: Activation = Activation.relu  # of hidden layers

    def build(self, spaces: Spaces) -> PolicyQAgent:
        return PolicyQAgent(spaces, self)
