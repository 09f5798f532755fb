"""Deep Q-learning (Mnih et al. 2015) with double estimation (van Hasselt et al. 2016)."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lfd.agents import Agent
from lfd.agents.roles import DISCRETE_CRITIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import gather_action, over_critics, td_target


class TDErrorKind(Enum):
    """The TD error: Huber suits rewards clipped to [-1, 1]; with returns around 100 it learns rare failures slowly."""

    huber = "huber"
    squared = "squared"


@dataclass(frozen=True)
class DQNMetrics(Metrics):
    critic_loss: Annotated[Tensor, "TD error as `error` measures it, summed over critics, without importance weights"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the batch's actions"]


@dataclass
class DQN(Loss):
    """error(Q(s, a) - [r + discount * min Qbar(s', a')]), summed over critics; sources compute n-step returns."""

    error: TDErrorKind = TDErrorKind.huber  # measure of the TD error
    double: bool = True  # the online network selects a'; false = the target network does
    temperature: float = 0.0  # soft maximum over Qbar(s', .) in place of a' (Haarnoja et al. 2017, eq. 5); 0 = maximum

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"critic": DISCRETE_CRITIC}
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature < 0:
            raise UserError(f"temperature: expected 0 or more, got {self.temperature}; 0 is the hard maximum")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[DQNMetrics]:
        with torch.no_grad():
            target = td_target(batch.reward, batch.discount, self._next_v(agent, batch)).unsqueeze(-1)  # [B, 1]
        q = agent.q(batch.obs, batch.action)  # [B, critics]
        measure = F.smooth_l1_loss if self.error is TDErrorKind.huber else F.mse_loss
        error = over_critics(torch.sum, measure(q, target.expand_as(q), reduction="none"))
        weighted = error * batch.weight if "weight" in batch.__dict__ else error
        metrics = DQNMetrics(error.mean(), q.mean())
        priority = over_critics(torch.mean, (q - target).abs()).detach()
        return LossOutput({"critic": weighted.mean()}, metrics, {"priority": priority})

    def _next_v(self, agent: Agent, batch: Batch) -> Tensor:
        """Values [B] of the next observations [B, ...]."""
        next_q = over_critics(torch.amin, agent.q_all(batch.next_obs, target=True), -2)
        if self.temperature:
            return self.temperature * torch.logsumexp(next_q / self.temperature, dim=-1)
        chooser = over_critics(torch.mean, agent.q_all(batch.next_obs), -2) if self.double else next_q
        return gather_action(next_q, chooser.argmax(-1))
