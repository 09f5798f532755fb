"""The supervised loss of DQfD (Hester et al. 2018): demonstrated actions have the largest values, by a margin."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.roles import DISCRETE_CRITIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import gather_action


@dataclass(frozen=True)
class LargeMarginMetrics(Metrics):
    bc_loss: Annotated[Tensor, "mean excess of the largest value with margin over the expert's, over critics"]
    accuracy: Annotated[Tensor, "share of the expert's actions that have the largest value"]


@dataclass
class LargeMargin(Loss):
    """max_a [Q(s, a) + margin * 1{a != a_E}] - Q(s, a_E), summed over critics (section "DQfD", J_E)."""

    margin: float = 0.8  # in units of the return; 0.8 in the paper, for clipped Atari rewards

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    uses: ClassVar = {"critic": DISCRETE_CRITIC}
    trains: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise UserError(f"margin: expected 0 or more, got {self.margin}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[LargeMarginMetrics]:
        all_q = agent.q_all(batch.obs)
        q = gather_action(all_q, batch.action)  # [B, critics]
        actions = torch.arange(all_q.shape[-1], device=all_q.device)
        margins = self.margin * (actions != batch.action.unsqueeze(-1)).float()  # [B, A]
        excess = (all_q + margins.unsqueeze(-2)).amax(-1) - q  # [B, critics]
        accuracy = (all_q.mean(-2).argmax(-1) == batch.action).float().mean()
        loss = excess.mean(0).sum()
        return LossOutput({"critic": loss}, LargeMarginMetrics(loss, accuracy))
