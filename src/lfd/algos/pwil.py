"""Primal Wasserstein imitation learning (Dadashi et al. 2021): a reward for moving as the expert does, as often."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import REWARD, Agent
from lfd.agents.judge import Features, Inputs, RecurrentReward
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.nets import has_frames

SHOWN = 256  # rows that a record of the fit is about


class Coupling(RecurrentReward):
    """alpha * exp(-beta * T / sqrt(F) * c) of a step that costs c to move to the nearest atoms that are left.

    An episode of T steps and D atoms, all of one weight, are coupled greedily (algorithm 1): each step takes 1 / T from
    the atoms, which have 1 / D each, the nearest first; c is the sum of what it takes times how far that is. Weights
    are counted in units of 1 / (T * D): whole numbers, so that none are lost. Distances are Euclidean over the F
    numbers of a transition, each divided by its standard deviation over the atoms.

    The paper's episodes do not outlive T. Here a later step finds no atom and is worth 0.
    """

    recordable = True

    atoms: Tensor  # [D, F]
    std: Tensor  # [F]
    horizon: Tensor  # [] int64, T

    def __init__(self, agent: Agent, loss: "PWIL") -> None:
        super().__init__()
        self.shown = Features(agent.spaces, loss.inputs)
        self.alpha, self.beta = loss.alpha, loss.beta / math.sqrt(self.shown.size)
        self.register_buffer("atoms", torch.zeros(loss.atoms, self.shown.size))
        self.register_buffer("std", torch.ones(self.shown.size))
        self.register_buffer("horizon", torch.tensor(loss.horizon))

    @torch.no_grad()
    def take(self, batch: Batch) -> None:
        """Make atoms of D transitions, and T of their episodes' lengths where those are given."""
        atoms = self.shown.features(batch)
        # From the first, so that rounding makes no difference where there is none.
        std = (atoms - atoms[0]).std(0, correction=0)
        self.atoms.copy_(atoms)
        self.std.copy_(torch.where(std > 0, std, 1.0))
        if "length" in batch.__dict__:
            self.horizon.copy_(batch.length.max())

    def distance(self, batch: Batch) -> Tensor:
        """[B, D] of transitions from the atoms."""
        offset = (self.shown.features(batch).unsqueeze(-2) - self.atoms) / self.std
        distance: Tensor = offset.square().sum(-1).sqrt()
        return distance

    def initial_state(self, number: int) -> Tensor:
        """int64 [number, D] units that each atom has left."""
        return self.horizon.repeat(number, len(self.atoms))

    def forward(self, batch: Batch, state: Tensor) -> tuple[Tensor, Tensor]:
        distance, order = self.distance(batch).sort(-1)
        left, wanted = state.gather(-1, order), len(self.atoms)
        taken = (wanted - (left.cumsum(-1) - left)).clamp(min=0).minimum(left)
        cost = (taken * distance).sum(-1) / wanted  # T * c
        reward = torch.where(taken.sum(-1) == wanted, self.alpha * (-self.beta * cost).exp(), 0.0)
        return reward, state.scatter_add(-1, order, -taken)


@dataclass
class PWIL(Loss):
    """Has no gradient: its only step makes atoms of a batch of as many different rows of the demonstrations.

    Alpha and beta are the paper's. Where only observations are looked at, F is their size alone.
    """

    inputs: Inputs = Inputs.obs_action  # what is compared
    atoms: int = 500  # D
    horizon: int = 0  # T: steps of an episode that runs to its end; 0 = as many as the longest demonstration
    alpha: float = 5.0  # the reward of a step that costs nothing
    beta: float = 5.0

    recordable: ClassVar = True
    needs: ClassVar = ("obs",)
    agents: ClassVar = Agent
    trains: ClassVar = (REWARD,)

    def __post_init__(self) -> None:
        super().__post_init__()
        scales = (self.alpha, self.beta)
        if self.atoms < 1 or self.horizon < 0 or not 0 < min(scales) <= max(scales) < math.inf:
            raise Refused(
                f"atoms {self.atoms}, horizon {self.horizon}, alpha {self.alpha}, beta {self.beta}: 1 or more atoms, a "
                "horizon of 0 or more, alpha and beta above 0 are expected"
            )

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {"": (self.reads, (*self.inputs.columns, *([] if self.horizon else ["length"])))}

    @property
    def rows(self) -> int:
        return self.atoms

    @property
    def one_sided(self) -> str:
        return "never negative"

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        if has_frames(agent.spaces.observation):
            raise Refused("pwil measures distances, which between frames say little; choose algo=gail, for example")
        return {REWARD: Coupling(agent, self)}

    def __call__(self, agent: Agent, batch: Batch) -> Out:
        net = agent.nets[REWARD]
        assert isinstance(net, Coupling)
        if torch.is_grad_enabled():  # a validation leaves the atoms alone
            net.take(batch)
        # How far rows are from their nearest atom: 0 for the atoms themselves. Of some: it takes rows * atoms numbers.
        return Out({}, {"loss": net.distance(batch.at(slice(SHOWN))).min(-1).values.mean()})
