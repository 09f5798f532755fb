"""Agents with a policy: alone, with a state value, or with an ensemble of action values."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor, nn

from lfd.agents import AgentSpec, PolicyAgent
from lfd.agents.critics import ActionValues, Critics
from lfd.agents.distributions import Categorical, Distribution, Gaussian, SquashedGaussian
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.nets import Activation, Net, encoder, features_of, has_frames, orthogonal


class Head(Enum):
    """Distribution of continuous actions: Gaussian, tanh of a Gaussian, or Gaussian with a tanh mean."""

    gaussian = "gaussian"
    tanh_gaussian = "tanh_gaussian"
    tanh_mean_gaussian = "tanh_mean_gaussian"


class PolicyNet(nn.Module):
    """Maps observations [B, ...] to a distribution over actions: categorical, or a Gaussian by its head."""

    recordable = True

    def __init__(self, net: Net, actions: int, head: Head | None, state_dependent: bool) -> None:
        super().__init__()
        self.net = net
        self.actions = actions
        self.head = head
        self.log_std = nn.Parameter(torch.zeros(actions)) if head and not state_dependent else None

    def forward(self, obs: Observation) -> Distribution:
        outputs = self.net(obs)
        if self.head is None:
            return Categorical(outputs)
        if self.log_std is not None:
            mean, log_std = outputs, self.log_std.expand_as(outputs)
        else:
            mean, log_std = outputs.chunk(2, dim=-1)
        # clamped, as the standard deviation would collapse on a deterministic expert
        log_std = log_std.clamp(-5, 2)
        if self.head is Head.tanh_gaussian:
            return SquashedGaussian(mean, log_std)
        return Gaussian(mean.tanh() if self.head is Head.tanh_mean_gaussian else mean, log_std)


class Actor(PolicyAgent):
    """An agent with a policy only: group "policy"."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "PolicySpec") -> None:
        super().__init__(spaces, {})
        head = spec.head if self.continuous else None
        outputs = self.action_size * (2 if head else 1)
        net = Net(spaces.observation, spec.hidden, outputs, spec.activation)
        self.nets["policy"] = PolicyNet(net, self.action_size, head, state_dependent=True)

    def distribution(self, obs: Observation) -> Distribution:
        policy: Distribution = self.net("policy", obs)
        return policy


@dataclass
class PolicySpec(AgentSpec):
    """A policy only, for behavior cloning."""

    hidden: list[int] = field(default_factory=lambda: [128, 128])  # units per hidden layer; unused behind a CNN
    activation: Activation = Activation.relu  # of hidden layers
    head: Head = Head.tanh_gaussian  # distribution of continuous actions

    def build(self, spaces: Spaces) -> Actor:
        return Actor(spaces, self)


class ActorCritic(PolicyAgent):
    """A policy and a state value: groups "policy" and "value"; image observations are encoded once for both."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "PolicyValue") -> None:
        super().__init__(spaces, {})
        self._shares = has_frames(spaces.observation)
        inputs: gym.Space[Any] | int = spaces.observation
        if self._shares:
            trunk = encoder(spaces.observation)
            orthogonal(trunk, 2**0.5)
            self.nets["encoder"] = trunk
            self.shared = {"encoder": ("policy", "value")}
            inputs = features_of(trunk)
        hidden = [] if self._shares else spec.hidden
        policy = Net(inputs, hidden, self.action_size, spec.activation)
        value = Net(inputs, hidden, 1, spec.activation)
        orthogonal(policy, 0.01)
        orthogonal(value, 1.0)
        self.nets["policy"] = PolicyNet(policy, self.action_size, Head.gaussian if self.continuous else None, False)
        self.nets["value"] = value

    def _encode(self, obs: Observation) -> Observation:
        encoded: Observation = self.net("encoder", obs) if self._shares else obs
        return encoded

    def distribution(self, obs: Observation) -> Distribution:
        policy: Distribution = self.net("policy", self._encode(obs))
        return policy

    def value(self, obs: Observation) -> Tensor:
        """State values [B]."""
        values: Tensor = self.net("value", self._encode(obs))
        return values.squeeze(-1)


@dataclass
class PolicyValue(AgentSpec):
    """A policy and a state value, for PPO."""

    hidden: list[int] = field(default_factory=lambda: [64, 64])  # units per hidden layer; unused behind a CNN
    activation: Activation = Activation.tanh  # of hidden layers

    def build(self, spaces: Spaces) -> ActorCritic:
        return ActorCritic(spaces, self)


class SoftActorCritic(PolicyAgent, ActionValues):
    """A tanh-Gaussian policy and an ensemble of action values: groups "policy" and "critic"."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "SoftPolicyCritic") -> None:
        super().__init__(spaces, {})
        size = self.action_size
        policy = Net(spaces.observation, spec.hidden, 2 * size, spec.activation)
        critics = [Net(spaces.observation, spec.hidden, 1, spec.activation, extra=size) for _ in range(spec.critics)]
        self.nets["policy"] = PolicyNet(policy, size, Head.tanh_gaussian, state_dependent=True)
        self.nets["critic"] = Critics(critics)

    def distribution(self, obs: Observation) -> SquashedGaussian:
        policy: SquashedGaussian = self.net("policy", obs)
        return policy

    def action_gradients(self, obs: Observation, action: Tensor) -> Tensor:
        """Gradients [critics, B, A] of each critic by actions [B, A]; they can be differentiated again."""
        critics = self.nets["critic"]
        assert isinstance(critics, Critics)
        copies = action.expand(len(critics.nets), *action.shape)
        gradients: Tensor = torch.func.grad(lambda actions: critics.each(obs, actions).sum())(copies)
        return gradients


@dataclass
class SoftPolicyCritic(AgentSpec):
    """A tanh-Gaussian policy and an ensemble of critics, for SAC and its offline variants."""

    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    hidden: list[int] = field(default_factory=lambda: [256, 256])  # units per hidden layer of policy and critics
    activation: Activation = Activation.relu  # of hidden layers
    critics: int = 2  # number of critics in the ensemble

    def __post_init__(self) -> None:
        if self.critics < 1:
            raise UserError(f"critics: expected 1 or more, got {self.critics}")

    def build(self, spaces: Spaces) -> SoftActorCritic:
        return SoftActorCritic(spaces, self)
