"""Fitted Q evaluation (Le, Voloshin and Yue 2019): the value of a policy from data of other policies."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents.critic import Critic
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.maths import td_target


@dataclass(frozen=True)
class FQEMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, in squared units of the return"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the data's actions"]


@dataclass
class FQE(Loss):
    """(Q(s, a) - [r + discount * Qbar(s', pi(s'))])^2: algorithm 3 by gradient steps, with a target network as
    the last iterate; `pi` is the mode of the agent that is frozen in the role "policy"."""

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = Critic
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("critic",)

    def __call__(self, agent: Critic, batch: Batch) -> LossOutput[FQEMetrics]:
        with torch.no_grad():
            next_v = agent.value(batch.next_obs, agent.policy_action(batch.next_obs), target=True)
            target = td_target(batch.reward, batch.discount, next_v)
        q = agent.value(batch.obs, batch.action)
        critic_loss = (q - target).square().mean()
        return LossOutput({"critic": critic_loss}, FQEMetrics(critic_loss, q.mean()))
