"""Fitted Q evaluation (Le, Voloshin and Yue 2019): what a policy is worth, from data that others made."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lfd.agents.critic import Critic
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.maths import td_target


@dataclass
class FQE(Loss):
    """(Q(s, a) - [r + discount * Qbar(s', pi(s'))])^2: algorithm 3 by gradient steps, with a slow copy as the last
    iterate; `pi` is the agent frozen in the role "policy", at its best and not sampled."""

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = Critic
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("critic",)

    def __call__(self, agent: Critic, batch: Batch) -> Out:
        with torch.no_grad():
            next_value = agent.value(batch.next_obs, agent.chosen(batch.next_obs), target=True)
            target = td_target(batch.reward, batch.discount, next_value)
        value = agent.value(batch.obs, batch.action)
        error = (value - target).square().mean()
        return Out({"critic": error}, {"loss": error.detach(), "q": value.mean().detach()})
