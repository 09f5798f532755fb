"""Ensembles of action-value networks."""

import torch
from torch import Tensor, nn

from lfd.agents import Agent
from lfd.batch import Observation
from lfd.nets import Net


class Critics(nn.Module):
    """An ensemble of critics of continuous actions: values [B, critics] of observations and actions [B, A]."""

    recordable = True

    def __init__(self, nets: list[Net]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, obs: Observation, action: Tensor, number: int | None = None) -> Tensor:
        """Values [B, number] of the first `number` critics, or of all."""
        return torch.cat([net(obs, action) for net in self.nets[:number]], dim=-1)

    def each(self, obs: Observation, actions: Tensor) -> Tensor:
        """Values [B, critics]: the i-th critic at the i-th of actions [critics, B, A]."""
        return torch.cat([net(obs, action) for net, action in zip(self.nets, actions, strict=True)], dim=-1)


class ActionValues(Agent):
    """An agent with an ensemble of critics of observations and actions: group "critic"."""

    def q(self, obs: Observation, action: Tensor) -> Tensor:
        """Values [..., B, critics] of actions [..., B, A]."""
        values: Tensor = self.net("critic", obs, action)
        return values

    def first_q(self, obs: Observation, action: Tensor) -> Tensor:
        """Values [..., B] of the first critic; the others are not computed."""
        values: Tensor = self.net("critic", obs, action, 1)
        return values.squeeze(-1)

    @torch.no_grad()
    def target_q(self, obs: Observation, action: Tensor) -> Tensor:
        """Values [..., B, critics] of the target networks."""
        values: Tensor = self.net("critic", obs, action, target=True)
        return values
