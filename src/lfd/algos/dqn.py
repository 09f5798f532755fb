"""Deep Q-learning (Mnih et al. 2015) with double estimation (van Hasselt et al. 2016)."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lfd.agents.q import QAgent
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import taken, td_target


class Error(Enum):
    """Huber suits rewards cut to [-1, 1]; where returns are around 100 it corrects a rare failure too little."""

    huber = "huber"
    squared = "squared"


@dataclass
class DQN(Loss):
    """error(Q(s, a) - [r + discount * Qbar(s', a')]); n-step returns and gamma come from the source."""

    error: Error = Error.huber
    double: bool = True  # a' by the learning net, its value by the slow copy; else both by the slow copy
    temperature: float = 0.0  # of a soft maximum over Qbar(s', .) in place of a' (Haarnoja et al. 2017, eq. 5)

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = QAgent
    trains: ClassVar = ("q",)
    targets: ClassVar = ("q",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature < 0:
            raise Refused(f"temperature is {self.temperature}; 0, for the largest value, or more is expected")

    def __call__(self, agent: QAgent, batch: Batch) -> Out:
        with torch.no_grad():
            target = td_target(batch.reward, batch.discount, self._next_value(agent, batch))
        value = taken(agent.q(batch.obs), batch.action)
        measure = F.smooth_l1_loss if self.error is Error.huber else F.mse_loss
        error = measure(value, target, reduction="none")
        weighted = error * batch.weight if "weight" in batch.__dict__ else error
        metrics = {"loss": error.mean().detach(), "q": value.mean().detach()}
        return Out({"q": weighted.mean()}, metrics, {"priority": (value - target).abs().detach()})

    def _next_value(self, agent: QAgent, batch: Batch) -> Tensor:
        values = agent.target_q(batch.next_obs)
        if self.temperature:
            return self.temperature * torch.logsumexp(values / self.temperature, dim=-1)
        chooser = agent.q(batch.next_obs) if self.double else values
        return taken(values, chooser.argmax(-1))
