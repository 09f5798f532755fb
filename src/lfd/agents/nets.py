"""Nets of an agent: policies, state values, and values of actions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor, nn

from lfd.agents.distributions import (
    Categorical,
    Deterministic,
    Distribution,
    Gaussian,
    SquashedGaussian,
)
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.nets import Activation, Net, Scalar


@dataclass(frozen=True)
class NetInputs:
    """What a net of an agent reads, and its layers unless its own configuration sets others."""

    spaces: Spaces
    features: int | None  # number of features that the shared trunk returns; None: the net encodes observations itself
    deep: bool  # True if the features come from learned layers, behind which a net of observations alone is linear
    hidden: Sequence[int]  # units per hidden layer
    activation: Activation  # of hidden layers

    @property
    def discrete(self) -> bool:
        """True if actions are discrete."""
        return self.spaces.actions == "discrete"

    def net(self, spec: "LayersSpec", outputs: int, extra: int = 0, layer_norm: bool = False) -> Net:
        """A network of what the net reads, and of `extra` further inputs -> [B, outputs]."""
        inputs = self.spaces.observation if self.features is None else self.features
        hidden = self.hidden if spec.hidden is None else spec.hidden
        if self.deep and self.features is not None and not extra and spec.hidden is None:
            hidden = []
        return Net(inputs, hidden, outputs, spec.activation or self.activation, extra, layer_norm)


@dataclass
class NetSpec(ABC):
    """The configuration group `net`: builds one net of an agent."""

    on_trunk: ClassVar[bool] = True  # False if the net encodes observations itself, or reads none
    actions: ClassVar[tuple[str, ...]] = ("discrete", "continuous")  # kinds of action spaces that the net supports
    leads_to: ClassVar[tuple[str, ...]] = ()  # registered acting rules that the net makes possible

    @abstractmethod
    def build(self, inputs: NetInputs) -> nn.Module:
        """Builds the net; its weights are drawn from torch's global generator."""


@dataclass
class LayersSpec(NetSpec, ABC):
    """A net of hidden layers."""

    hidden: list[int] | None = None  # units per hidden layer; null = those of the agent, none behind a learned trunk
    activation: Activation | None = None  # of hidden layers; null = that of the agent


class Head(Enum):
    """Distribution of continuous actions: Gaussian, tanh of a Gaussian, Gaussian with a tanh mean, or a single one."""

    gaussian = "gaussian"
    tanh_gaussian = "tanh_gaussian"
    tanh_mean_gaussian = "tanh_mean_gaussian"
    deterministic = "deterministic"


class PolicyNet(nn.Module, ABC):
    """A policy: features [B, F] or observations [B, ...] -> a distribution over actions [B] or [B, A]."""

    distribution: type[Distribution]  # class of what it returns


class PolicyHead(PolicyNet):
    """A network, and the distribution that its outputs [B, n] parameterize."""

    recordable = True

    def __init__(self, net: Net, actions: int, head: Head | None, state_dependent_std: bool) -> None:
        super().__init__()
        self.net = net
        self.head = head
        kinds = {Head.gaussian: Gaussian, Head.tanh_gaussian: SquashedGaussian, Head.tanh_mean_gaussian: Gaussian}
        self.distribution = Categorical if head is None else kinds.get(head, Deterministic)
        has_spread = head not in (None, Head.deterministic)
        self.log_std = nn.Parameter(torch.zeros(actions)) if has_spread and not state_dependent_std else None

    def forward(self, obs: Observation) -> Distribution:
        """The distribution over actions, [B] or [B, A], at features [B, F] or observations [B, ...]."""
        outputs = self.net(obs)
        if self.head is None:
            return Categorical(outputs)
        if self.head is Head.deterministic:
            return Deterministic(outputs.tanh())
        if self.log_std is not None:
            mean, log_std = outputs, self.log_std.expand_as(outputs)
        else:
            mean, log_std = outputs.chunk(2, dim=-1)
        # clamped, as the standard deviation would collapse on a deterministic expert
        log_std = log_std.clamp(-5, 2)
        if self.head is Head.tanh_gaussian:
            return SquashedGaussian(mean, log_std)
        return Gaussian(mean.tanh() if self.head is Head.tanh_mean_gaussian else mean, log_std)


@dataclass
class PolicySpec(LayersSpec):
    """A policy: categorical for discrete actions, as `head` says for continuous ones."""

    leads_to: ClassVar[tuple[str, ...]] = ("policy",)

    head: Head = Head.tanh_gaussian  # distribution of continuous actions
    state_dependent_std: bool = True  # false: one standard deviation for each dimension, whatever the observation

    def build(self, inputs: NetInputs) -> PolicyNet:
        size = inputs.spaces.action_size
        head = None if inputs.discrete else self.head
        has_std = head not in (None, Head.deterministic) and self.state_dependent_std
        return PolicyHead(inputs.net(self, 2 * size if has_std else size), size, head, self.state_dependent_std)


class ValueNet(nn.Module):
    """Values of states."""

    recordable = True

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, obs: Observation) -> Tensor:
        """Values [B] at features [B, F] or observations [B, ...]."""
        values: Tensor = self.net(obs).squeeze(-1)
        return values


@dataclass
class StateValueSpec(LayersSpec):
    """Values of states."""

    def build(self, inputs: NetInputs) -> ValueNet:
        return ValueNet(inputs.net(self, 1))


class DiscreteQNet(nn.Module, ABC):
    """Values of all discrete actions at observations."""

    @abstractmethod
    def forward(self, obs: Observation, only: int | None = None) -> Tensor:
        """Outputs [B, N, A] at observations [B, ...]; `only` computes those of the first critics."""

    def values(self, outputs: Tensor) -> Tensor:
        """Values [B, critics, A] of outputs [B, N, A]: the same numbers by default."""
        return outputs


class ContinuousQNet(nn.Module, ABC):
    """Values [..., B, critics] of continuous actions [..., B, A] at observations [B, ...]."""

    number: int  # of critics

    @abstractmethod
    def forward(self, obs: Observation, action: Tensor, only: int | None = None) -> Tensor:
        """Values [..., B, critics]; `only` computes the first critics."""

    @abstractmethod
    def each(self, obs: Observation, actions: Tensor) -> Tensor:
        """Values [B, critics]: the i-th critic at the i-th of actions [critics, B, A]."""


class DiscreteQEnsemble(DiscreteQNet):
    """An ensemble of critics that list the values of all actions."""

    recordable = True

    def __init__(self, nets: list[Net]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, obs: Observation, only: int | None = None) -> Tensor:
        values = [net(obs) for net in self.nets[:only]]
        return torch.stack(values, dim=-2) if len(values) > 1 else values[0].unsqueeze(-2)


class ContinuousQEnsemble(ContinuousQNet):
    """An ensemble of critics of an observation and an action."""

    recordable = True

    def __init__(self, nets: list[Net]) -> None:
        super().__init__()
        self.number = len(nets)
        self.nets = nn.ModuleList(nets)

    def forward(self, obs: Observation, action: Tensor, only: int | None = None) -> Tensor:
        return torch.cat([net(obs, action) for net in self.nets[:only]], dim=-1)

    def each(self, obs: Observation, actions: Tensor) -> Tensor:
        return torch.cat([net(obs, action) for net, action in zip(self.nets, actions, strict=True)], dim=-1)


@dataclass
class QEnsembleSpec(LayersSpec):
    """An ensemble of critics, of discrete or continuous actions."""

    leads_to: ClassVar[tuple[str, ...]] = ("greedy",)

    critics: int = 2  # number of critics in the ensemble
    layer_norm: bool = False  # layer normalization after each hidden layer

    def __post_init__(self) -> None:
        if self.critics < 1:
            raise UserError(f"critics: expected 1 or more, got {self.critics}")

    def build(self, inputs: NetInputs) -> nn.Module:
        size = inputs.spaces.action_size
        outputs, extra = (size, 0) if inputs.discrete else (1, size)
        nets = [inputs.net(self, outputs, extra, self.layer_norm) for _ in range(self.critics)]
        return DiscreteQEnsemble(nets) if inputs.discrete else ContinuousQEnsemble(nets)


class QuantileQNet(DiscreteQNet):
    """Quantiles of the return of each action; an action's value is their mean."""

    recordable = True

    def __init__(self, net: Net, quantiles: int) -> None:
        super().__init__()
        self.net, self._number = net, quantiles

    def forward(self, obs: Observation, only: int | None = None) -> Tensor:
        """Quantiles [B, N, A] of returns; the i-th of N has the level (2i - 1) / 2N."""
        outputs = self.net(obs)
        quantiles: Tensor = outputs.reshape(*outputs.shape[:-1], self._number, -1)
        return quantiles

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.mean(-2, keepdim=True)


@dataclass
class QuantileQSpec(LayersSpec):
    """Quantiles of the returns of all discrete actions, for QR-DQN."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    leads_to: ClassVar[tuple[str, ...]] = ("greedy",)

    quantiles: int = 200  # number of quantiles per action (Dabney et al. 2018)

    def __post_init__(self) -> None:
        if self.quantiles < 1:
            raise UserError(f"quantiles: expected 1 or more, got {self.quantiles}")

    def build(self, inputs: NetInputs) -> QuantileQNet:
        return QuantileQNet(inputs.net(self, self.quantiles * inputs.spaces.action_size), self.quantiles)


@dataclass
class ScalarSpec(NetSpec):
    """One trained number, such as the logarithm of a temperature or of a multiplier."""

    on_trunk: ClassVar[bool] = False

    value: float = 0.0  # before the first gradient step

    def build(self, inputs: NetInputs) -> Scalar:
        return Scalar(self.value)
