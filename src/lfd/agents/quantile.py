"""An agent that knows the distribution of each action's return by its quantiles."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import AgentSpec
from lfd.agents.q import DiscreteValues
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.nets import Activation, Net
from lfd.noise import Noise


class QuantileAgent(DiscreteValues):
    """Acts by the largest mean of quantiles: group "q"."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "QuantileNet") -> None:
        super().__init__(spaces, {})
        self._number = spec.quantiles
        outputs = spec.quantiles * self.action_size
        self.nets["q"] = Net(spaces.observation, spec.hidden, outputs, spec.activation)

    def quantiles(self, obs: Observation) -> Tensor:
        """[B, quantiles, A], the i-th that of level (2i - 1) / 2N."""
        return self._table(self.net("q", obs))

    @torch.no_grad()
    def target_quantiles(self, obs: Observation) -> Tensor:
        """[B, quantiles, A] of the slow copy."""
        return self._table(self.net("q", obs, target=True))

    def _table(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-1], self._number, self.action_size)

    def q(self, obs: Observation) -> Tensor:
        return self.quantiles(obs).mean(-2)

    @torch.no_grad()
    def target_q(self, obs: Observation) -> Tensor:
        return self.target_quantiles(obs).mean(-2)

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, noise: Noise | None) -> tuple[Tensor, Any]:
        return self.q(self.observe(obs)).argmax(-1), state


@dataclass
class QuantileNet(AgentSpec):
    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    hidden: list[int] = field(
        default_factory=lambda: [128, 128]
    )  # units of each hidden layer; none behind the Nature CNN
    activation: Activation = Activation.relu
    quantiles: int = 200  # of each action's return (Dabney et al. 2018)

    def __post_init__(self) -> None:
        if self.quantiles < 1:
            raise Refused(f"quantiles is {self.quantiles}; 1 or more are expected")

    def build(self, spaces: Spaces) -> QuantileAgent:
        return QuantileAgent(spaces, self)
