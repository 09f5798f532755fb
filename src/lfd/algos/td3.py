"""Twin delayed deterministic policy gradient (Fujimoto et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lfd.agents.deterministic import DeterministicActorCritic
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import critics_error, smoothed_action, td_target


@dataclass
class TD3(Loss):
    """Critics to r + discount * min Qbar(s', a'), a' = pibar(s') + clipped noise (algorithm 1)."""

    noise: float = 0.2  # standard deviation of the noise on a', in halves of the range of actions
    noise_clip: float = 0.5  # largest size of that noise, in the same unit

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = DeterministicActorCritic
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("policy", "critic")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.noise, self.noise_clip) < 0:
            raise Refused(f"{self}: noise and noise_clip from 0 are expected")

    def __call__(self, agent: DeterministicActorCritic, batch: Batch) -> Out:
        with torch.no_grad():
            normal = agent.draws.normal(*batch.action.shape)
            following = smoothed_action(agent.target_action(batch.next_obs), normal, self.noise, self.noise_clip)
            target = td_target(batch.reward, batch.discount, agent.target_q(batch.next_obs, following).amin(-1))
        values = agent.q(batch.obs, batch.action)
        td = critics_error(values, target)
        return Out({"critic": td}, {"loss": td.detach(), "q": values.mean().detach()})


@dataclass
class DeterministicGradient(Loss):
    """A policy to the largest value of the first critic: -Q_1(s, pi(s)). Delayed by `every`."""

    recordable: ClassVar = True
    needs: ClassVar = ("obs",)
    agents: ClassVar = DeterministicActorCritic
    trains: ClassVar = ("policy",)
    revision: ClassVar = 2  # delayed slow copies follow in the steps of the policy

    def __call__(self, agent: DeterministicActorCritic, batch: Batch) -> Out:
        loss = -agent.first_q(batch.obs, agent.action(batch.obs)).mean()
        return Out({"policy": loss}, {"loss": loss.detach()})
