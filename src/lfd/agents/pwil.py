"""Primal Wasserstein imitation learning (Dadashi et al. 2021): a reward by the distance to demonstrations."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lfd.agents.nets import NetInputs, NetSpec
from lfd.agents.reward_model import Features, Inputs, RecurrentReward
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.errors import UserError


class PWILReward(RecurrentReward):
    """alpha * exp(-beta * T / sqrt(F) * c) of a step with transport cost c to the nearest atoms that are left.

    The T steps of an episode and the D atoms are coupled greedily (algorithm 1): each step takes the weight 1 / T from
    the atoms, which have 1 / D each, the nearest first; c is the sum over atoms of the weight taken times the distance.
    Weights are counted in units of 1 / (T * D), as integers, so that none are lost. Distances are Euclidean over the F
    numbers of a transition, each divided by its standard deviation over the atoms.

    Episodes of the paper have at most T steps. Here no atoms are left for a later step, and its reward is 0.
    """

    recordable = True

    atoms: Tensor  # [D, F]
    std: Tensor  # [F]
    horizon: Tensor  # [] int64, T

    def __init__(self, spaces: Spaces, config: "PWIL") -> None:
        super().__init__()
        self.inputs = Features(spaces, config.inputs)
        self.alpha, self.beta = config.alpha, config.beta / math.sqrt(self.inputs.size)
        self.register_buffer("atoms", torch.zeros(config.atoms, self.inputs.size))
        self.register_buffer("std", torch.ones(self.inputs.size))
        self.register_buffer("horizon", torch.tensor(config.horizon))

    @torch.no_grad()
    def set_atoms(self, batch: Batch, longest: int) -> None:
        """Makes atoms of D preprocessed transitions [D, ...]; T is `longest` steps unless the configuration sets it."""
        atoms = self.inputs.features(batch)
        # of offsets from the first atom, as rounding would give equal numbers a deviation
        std = (atoms - atoms[0]).std(0, correction=0)
        self.atoms.copy_(atoms)
        self.std.copy_(torch.where(std > 0, std, 1.0))
        if not self.horizon:
            self.horizon.fill_(longest)

    def distance(self, batch: Batch) -> Tensor:
        """Distances [B, D] of preprocessed transitions [B, ...] from the atoms."""
        offset = (self.inputs.features(batch).unsqueeze(-2) - self.atoms) / self.std
        distance: Tensor = offset.square().sum(-1).sqrt()
        return distance

    def initial_state(self, number: int) -> Tensor:
        """The units int64 [number, D] that each atom has left at the start of an episode."""
        return self.horizon.repeat(number, len(self.atoms))

    def forward(self, batch: Batch, state: Tensor) -> tuple[Tensor, Tensor]:
        distance, order = self.distance(batch).sort(-1)
        left, units = state.gather(-1, order), len(self.atoms)  # a step takes D units of 1 / (T * D)
        used = (units - (left.cumsum(-1) - left)).clamp(min=0).minimum(left)
        cost = (used * distance).sum(-1) / units  # T * c
        reward = torch.where(used.sum(-1) == units, self.alpha * (-self.beta * cost).exp(), 0.0)
        return reward, state.scatter_add(-1, order, -used)


@dataclass
class PWIL(NetSpec):
    """A reward model without weights: `atoms` rows of demonstrations, which the stage `fit_pwil` draws.

    Alpha and beta are the paper's. F counts the numbers of the inputs only.
    """

    on_trunk: ClassVar[bool] = False

    inputs: Inputs = Inputs.obs_action  # the columns that are compared
    atoms: int = 500  # D
    horizon: int = 0  # T, steps of an episode; 0 = those of the longest demonstration
    alpha: float = 5.0  # reward of a step without cost
    beta: float = 5.0  # decay of the reward with the cost

    def __post_init__(self) -> None:
        if self.atoms < 1:
            raise UserError(f"atoms: expected 1 or more, got {self.atoms}")
        if self.horizon < 0:
            raise UserError(f"horizon: expected 0 or more, got {self.horizon}")
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}: expected a finite number above 0, got {getattr(self, name)}")

    def build(self, inputs: NetInputs) -> PWILReward:
        return PWILReward(inputs.spaces, self)
