"""Quantile regression DQN (Dabney et al. 2018)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.roles import QUANTILES
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import gather_action, quantile_huber, td_target


@dataclass(frozen=True)
class QRDQNMetrics(Metrics):
    critic_loss: Annotated[Tensor, "quantile Huber error, summed over quantiles, without importance weights"]
    q_mean: Annotated[Tensor, "mean of the quantiles of the batch's actions"]


@dataclass
class QRDQN(Loss):
    """Quantiles of Z(s, a) to those of r + discount * Zbar(s', a'), a' by the largest mean of Zbar (algorithm 1)."""

    kappa: float = 1.0  # errors below it are squared, in units of the return

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"critic": QUANTILES}
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kappa <= 0:
            raise UserError(f"kappa: expected a number above 0, got {self.kappa}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[QRDQNMetrics]:
        with torch.no_grad():
            next_quantiles = agent.q_outputs(batch.next_obs, target=True)
            next_z = gather_action(next_quantiles, next_quantiles.mean(-2).argmax(-1))
            reward, discount = (column.unsqueeze(-1).expand_as(next_z) for column in (batch.reward, batch.discount))
            target = td_target(reward, discount, next_z)
        quantiles = gather_action(agent.q_outputs(batch.obs), batch.action)
        error = quantile_huber(quantiles, target, self.kappa)
        weighted = error * batch.weight if "weight" in batch.__dict__ else error
        metrics = QRDQNMetrics(error.mean(), quantiles.mean())
        return LossOutput({"critic": weighted.mean()}, metrics, {"priority": error.detach()})
