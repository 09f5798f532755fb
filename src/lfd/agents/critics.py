"""Values of single actions, by several critics."""

import torch
from torch import Tensor, nn

from lfd.agents import Agent
from lfd.batch import Observation
from lfd.nets import Net


class Critics(nn.Module):
    """Independent values of continuous actions: [B, number] from observations and actions [B, A]."""

    recordable = True

    def __init__(self, nets: list[Net]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, obs: Observation, action: Tensor, number: int | None = None) -> Tensor:
        """Of the first `number` of them, or of all."""
        return torch.cat([net(obs, action) for net in self.nets[:number]], dim=-1)

    def each(self, obs: Observation, actions: Tensor) -> Tensor:
        """[B, number], the i-th at the i-th of actions [number, B, A]."""
        return torch.cat([net(obs, action) for net, action in zip(self.nets, actions, strict=True)], dim=-1)


class ActionValues(Agent):
    """An agent with several critics of the action that it is given: group "critic"."""

    def q(self, obs: Observation, action: Tensor) -> Tensor:
        """[..., B, critics]"""
        values: Tensor = self.net("critic", obs, action)
        return values

    def first_q(self, obs: Observation, action: Tensor) -> Tensor:
        """[..., B] by the first critic; the others are not computed."""
        values: Tensor = self.net("critic", obs, action, 1)
        return values.squeeze(-1)

    @torch.no_grad()
    def target_q(self, obs: Observation, action: Tensor) -> Tensor:
        """[..., B, critics] of the slow copies."""
        values: Tensor = self.net("critic", obs, action, target=True)
        return values
