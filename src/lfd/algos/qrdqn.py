"""Quantile regression DQN (Dabney et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lfd.agents.quantile import QuantileAgent
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import quantile_huber, taken, td_target


@dataclass
class QRDQN(Loss):
    """Quantiles of Z(s, a) to those of r + discount * Zbar(s', a'), a' by the largest mean of Zbar (algorithm 1)."""

    kappa: float = 1.0  # errors below it are squared, in units of the return

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = QuantileAgent
    trains: ClassVar = ("q",)
    targets: ClassVar = ("q",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kappa <= 0:
            raise Refused(f"kappa is {self.kappa}; a number above 0 is expected")

    def __call__(self, agent: QuantileAgent, batch: Batch) -> Out:
        with torch.no_grad():
            following = agent.target_quantiles(batch.next_obs)
            bootstrap = _of(following, following.mean(-2).argmax(-1))
            reward, discount = (column.unsqueeze(-1).expand_as(bootstrap) for column in (batch.reward, batch.discount))
            target = td_target(reward, discount, bootstrap)
        quantiles = _of(agent.quantiles(batch.obs), batch.action)
        error = quantile_huber(quantiles, target, self.kappa)
        weighted = error * batch.weight if "weight" in batch.__dict__ else error
        metrics = {"loss": error.mean().detach(), "q": quantiles.mean().detach()}
        return Out({"q": weighted.mean()}, metrics, {"priority": error.detach()})


def _of(quantiles: Tensor, action: Tensor) -> Tensor:
    """[B, N, A] of the actions [B] -> [B, N]"""
    return taken(quantiles, action.unsqueeze(-1).expand(quantiles.shape[:-1]))
