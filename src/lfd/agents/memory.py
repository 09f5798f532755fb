"""Memories of an agent: cells that map features and a recurrent state to features and the next state."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfd.errors import UserError


class Memory(nn.Module, ABC):
    """A recurrent cell. A sequence calls it once a step, so that `torch.vmap` supports it."""

    features: int  # number of features that it returns

    @abstractmethod
    def initial_state(self, number: int) -> Any:
        """The state at the start of `number` episodes: a tensor [number, ...], or a tuple or dict of these."""

    def project(self, features: Tensor) -> Tensor:
        """What `forward` gets of features [..., F]: itself, or a product of them that all steps share."""
        return features

    @abstractmethod
    def forward(self, projected: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Features [B, features] and the next state, from `project(features)` [B, …] of a step and the state before."""


class GRU(Memory):
    """A gated recurrent unit (Cho et al. 2014); its state is its output."""

    recordable = True

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.features = units
        self.cell = nn.GRUCell(inputs, units)

    def initial_state(self, number: int) -> Tensor:
        return torch.zeros(number, self.features, device=self.cell.weight_hh.device)

    def project(self, features: Tensor) -> Tensor:
        return F.linear(features, self.cell.weight_ih, self.cell.bias_ih)

    def forward(self, projected: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        # written out, as torch.vmap has no rule for the cell's own kernel and would call it member by member
        sizes = [2 * self.features, self.features]
        gates, new = torch.split(projected, sizes, -1)
        gates_by, new_by = torch.split(F.linear(state, self.cell.weight_hh, self.cell.bias_hh), sizes, -1)
        reset, update = (gates + gates_by).sigmoid().chunk(2, -1)
        state = torch.lerp(torch.addcmul(new, reset, new_by).tanh(), state, update)
        return state, state


@dataclass
class MemorySpec(ABC):
    """The configuration group `memory`: builds the memory behind an agent's encoder."""

    @abstractmethod
    def build(self, inputs: int) -> Memory:
        """Builds a memory of features [B, inputs]; its weights are drawn from torch's global generator."""


@dataclass
class GRUSpec(MemorySpec):
    """A gated recurrent unit."""

    units: int = 128  # numbers of its state

    def __post_init__(self) -> None:
        if self.units < 1:
            raise UserError(f"units: expected 1 or more, got {self.units}")

    def build(self, inputs: int) -> GRU:
        return GRU(inputs, self.units)
