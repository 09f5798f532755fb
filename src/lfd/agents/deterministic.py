"""An agent whose policy is a function of the observation, with action values."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import AgentSpec
from lfd.agents.critics import ActionValues, Critics
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.nets import Activation, Net
from lfd.noise import Noise


class DeterministicActorCritic(ActionValues):
    """A policy that ends in tanh, and action values: groups "policy" and "critic"."""

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
        """[B, A] in [-1, 1]"""
        pre_tanh: Tensor = self.net("policy", obs)
        return pre_tanh.tanh()

    def target_action(self, obs: Observation) -> Tensor:
        """[B, A] of the slow copy."""
        pre_tanh: Tensor = self.net("policy", obs, target=True)
        return pre_tanh.tanh()

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, noise: Noise | None) -> tuple[Tensor, Any]:
        return self.to_space(self.action(self.observe(obs))), state


@dataclass
class DeterministicPolicyCritic(AgentSpec):
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    hidden: list[int] = field(default_factory=lambda: [256, 256])  # units of each hidden layer, in policy and critics
    activation: Activation = Activation.relu
    critics: int = 2
    layer_norm: bool = False  # behind each hidden layer of the critics

    def __post_init__(self) -> None:
        if self.critics < 1:
            raise Refused(f"critics is {self.critics}; 1 or more are expected")

    def build(self, spaces: Spaces) -> DeterministicActorCritic:
        return DeterministicActorCritic(spaces, self)
