"""An agent with quantiles of each action's return distribution."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import AgentSpec
from lfd.agents.q import DiscreteValues
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.nets import Activation, Net
from lfd.rng import Rng


class QuantileAgent(DiscreteValues):
    """Takes the action whose quantiles have the largest mean: group "q"."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "QuantileNet") -> None:
        super().__init__(spaces, {})
        self._number = spec.quantiles
        outputs = spec.quantiles * self.action_size
        self.nets["q"] = Net(spaces.observation, spec.hidden, outputs, spec.activation)

    def quantiles(self, obs: Observation) -> Tensor:
        """Quantiles [B, quantiles, A] of returns; the i-th of N has the level (2i - 1) / 2N."""
        return self._table(self.net("q", obs))

    @torch.no_grad()
    def target_quantiles(self, obs: Observation) -> Tensor:
        """Quantiles [B, quantiles, A] of the target network."""
        return self._table(self.net("q", obs, target=True))

    def _table(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-1], self._number, self.action_size)

    def q(self, obs: Observation) -> Tensor:
        return self.quantiles(obs).mean(-2)

    @torch.no_grad()
    def target_q(self, obs: Observation) -> Tensor:
        return self.target_quantiles(obs).mean(-2)

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, rng: Rng | None) -> tuple[Tensor, Any]:
        return self.q(self.normalize_obs(obs)).argmax(-1), state


@dataclass
class QuantileNet(AgentSpec):
    """Quantiles of the returns of all discrete actions, for QR-DQN."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    hidden: list[int] = field(default_factory=lambda: [128, 128])  # units per hidden layer; unused behind a CNN
    activation: Activation = Activation.relu  # of hidden layers
    quantiles: int = 200  # number of quantiles per action (Dabney et al. 2018)

    def __post_init__(self) -> None:
        if self.quantiles < 1:
            raise UserError(f"quantiles: expected 1 or more, got {self.quantiles}")

    def build(self, spaces: Spaces) -> QuantileAgent:
        return QuantileAgent(spaces, self)
