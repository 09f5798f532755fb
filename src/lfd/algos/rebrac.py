"""ReBRAC (Tarasov et al. 2023): TD3+BC with a penalty of its own for the critics, and LayerNorm in them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lfd.agents.deterministic import DeterministicActorCritic
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import critics_error, smoothed_action, td_target


@dataclass
class ReBRACCritic(Loss):
    """Critics to r + discount * (min Qbar(s', a') - beta * |a' - a'_data|^2), a' as in TD3.

    The penalty is summed over the dimensions of an action, here and in the policy's. At an episode's end, a time limit
    included, nothing was done at s': a'_data is then the action of the step itself.
    """

    beta: float = 0.01  # weight of the penalty
    noise: float = 0.2  # standard deviation of the noise on a', in halves of the range of actions
    noise_clip: float = 0.5  # largest size of that noise, in the same unit

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "next_action", "discount")
    agents: ClassVar = DeterministicActorCritic
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("policy", "critic")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.beta, self.noise, self.noise_clip) < 0:
            raise Refused(f"{self}: beta, noise and noise_clip from 0 are expected")

    def __call__(self, agent: DeterministicActorCritic, batch: Batch) -> Out:
        with torch.no_grad():
            normal = agent.draws.normal(*batch.action.shape)
            following = smoothed_action(agent.target_action(batch.next_obs), normal, self.noise, self.noise_clip)
            penalty = (following - batch.next_action).square().sum(-1)
            next_value = agent.target_q(batch.next_obs, following).amin(-1) - self.beta * penalty
            target = td_target(batch.reward, batch.discount, next_value)
        values = agent.q(batch.obs, batch.action)
        td = critics_error(values, target)
        metrics = {"loss": td.detach(), "q": values.mean().detach(), "penalty": penalty.mean()}
        return Out({"critic": td}, metrics)


@dataclass
class ReBRACActor(Loss):
    """beta * |pi(s) - a|^2 - lambda * min Q(s, pi(s)), lambda = 1 / mean |min Q(s, pi(s))|."""

    beta: float = 0.01  # weight of the penalty

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    agents: ClassVar = DeterministicActorCritic
    trains: ClassVar = ("policy",)
    revision: ClassVar = 2  # delayed slow copies follow in the steps of the policy

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise Refused(f"beta of ReBRAC's actor is {self.beta}; 0 or more is expected")

    def __call__(self, agent: DeterministicActorCritic, batch: Batch) -> Out:
        action = agent.action(batch.obs)
        values = agent.q(batch.obs, action).amin(-1)
        penalty = (action - batch.action).square().sum(-1).mean()
        loss = self.beta * penalty - values.mean() / values.detach().abs().mean()
        return Out({"policy": loss}, {"loss": loss.detach(), "penalty": penalty.detach()})
