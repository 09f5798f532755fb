"""Deep Q-learning (Mnih et al. 2015) with double estimation (van Hasselt et al. 2016)."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lfd.agents.q import QAgent
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import gather_action, td_target


class TDErrorKind(Enum):
    """The TD error: Huber suits rewards clipped to [-1, 1]; with returns around 100 it learns rare failures slowly."""

    huber = "huber"
    squared = "squared"


@dataclass(frozen=True)
class DQNMetrics(Metrics):
    critic_loss: Annotated[Tensor, "TD error as `error` measures it, without importance weights"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the batch's actions"]


@dataclass
class DQN(Loss):
    """error(Q(s, a) - [r + discount * Qbar(s', a')]); the source computes n-step returns and discounts."""

    error: TDErrorKind = TDErrorKind.huber  # measure of the TD error
    double: bool = True  # the online network selects a'; false = the target network does
    temperature: float = 0.0  # soft maximum over Qbar(s', .) in place of a' (Haarnoja et al. 2017, eq. 5); 0 = maximum

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = QAgent
    trains: ClassVar = ("q",)
    targets: ClassVar = ("q",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature < 0:
            raise UserError(f"temperature: expected 0 or more, got {self.temperature}; 0 is the hard maximum")

    def __call__(self, agent: QAgent, batch: Batch) -> LossOutput[DQNMetrics]:
        with torch.no_grad():
            target = td_target(batch.reward, batch.discount, self._next_v(agent, batch))
        q = gather_action(agent.q(batch.obs), batch.action)
        measure = F.smooth_l1_loss if self.error is TDErrorKind.huber else F.mse_loss
        error = measure(q, target, reduction="none")
        weighted = error * batch.weight if "weight" in batch.__dict__ else error
        metrics = DQNMetrics(error.mean(), q.mean())
        return LossOutput({"q": weighted.mean()}, metrics, {"priority": (q - target).abs().detach()})

    def _next_v(self, agent: QAgent, batch: Batch) -> Tensor:
        """Values [B] of the next observations [B, ...]."""
        next_q = agent.target_q(batch.next_obs)
        if self.temperature:
            return self.temperature * torch.logsumexp(next_q / self.temperature, dim=-1)
        chooser = agent.q(batch.next_obs) if self.double else next_q
        return gather_action(next_q, chooser.argmax(-1))
