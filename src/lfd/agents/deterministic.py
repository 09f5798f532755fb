"""An agent with a deterministic policy and an ensemble of action values."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import AgentSpec
from lfd.agents.critics import ActionValues, Critics
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.nets import Activation, Net
from lfd.rng import Rng


class DeterministicActorCritic(ActionValues):
    """A deterministic tanh policy and an ensemble of action values: groups "policy" and "critic"."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "DeterministicPolicyCritic") -> None:
        super().__init__(spaces, {})
        space, size = spaces.observation, self.action_size
        critics = [
            Net(space, spec.hidden, 1, spec.activation, extra=size, layer_norm=spec.layer_norm)
            for _ in range(spec.critics)
        ]
        self.nets["policy"] = Net(space, spec.hidden, size, spec.activation)
        self.nets["critic"] = Critics(critics)

    def action(self, obs: Observation) -> Tensor:
        """Actions [B, A] in [-1, 1]."""
        pre_tanh: Tensor = self.net("policy", obs)
        return pre_tanh.tanh()

    def target_action(self, obs: Observation) -> Tensor:
        """Actions [B, A] in [-1, 1] of the target network."""
        pre_tanh: Tensor = self.net("policy", obs, target=True)
        return pre_tanh.tanh()

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, rng: Rng | None) -> tuple[Tensor, Any]:
        return self.to_space(self.action(self.normalize_obs(obs))), state


@dataclass
class DeterministicPolicyCritic(AgentSpec):
    """A deterministic policy and an ensemble of critics, for TD3 and its offline variants."""

    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    hidden: list[int] = field(default_factory=lambda: [256, 256])  # units per hidden layer of policy and critics
    activation: Activation = Activation.relu  # of hidden layers
    critics: int = 2  # number of critics in the ensemble
    layer_norm: bool = False  # layer normalization after each hidden layer of the critics

    def __post_init__(self) -> None:
        if self.critics < 1:
            raise UserError(f"critics: expected 1 or more, got {self.critics}")

    def build(self, spaces: Spaces) -> DeterministicActorCritic:
        return DeterministicActorCritic(spaces, self)
