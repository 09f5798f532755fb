"""Conservative Q-learning (Kumar et al. 2020)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import Agent
from lfd.agents.actor_critic import SoftActorCritic
from lfd.agents.q import DiscreteValues
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import conservative_gap, taken
from lfd.nets import Parameter


@dataclass
class ConservativeDiscrete(Loss):
    """T * logsumexp_a(Q(s, a) / T) - Q(s, a_data): CQL(H), eq. 4, all actions listed."""

    temperature: float = 1.0

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    agents: ClassVar = DiscreteValues
    trains: ClassVar = ("q",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise Refused(f"{self}: a temperature above 0 is expected")

    def __call__(self, agent: DiscreteValues, batch: Batch) -> Out:
        values = agent.q(batch.obs)
        gap = conservative_gap(values, taken(values, batch.action), 0.0, self.temperature).mean()
        return Out({"q": gap}, {"loss": gap.detach()})


@dataclass
class ConservativeContinuous(Loss):
    """The same gap with the soft maximum over sampled actions, each corrected by the density that proposed it.

    `samples` uniform ones, `samples` from the policy at s and `samples` from the policy at s', all valued at s
    (appendix F, variant with importance sampling). As in the authors' code the soft maximum is over the sum of the
    samples, not their mean: the gap is larger by the logarithm of their number. With `target_gap` >= 0 the weight of
    the gap is a multiplier that rises while the gap exceeds the target (eq. 30).

    Calibrated (Cal-QL, Nakamoto et al. 2023, eq. 5.1), values of the policy's actions count as no less than the return
    that the data had from s on, so that they are not pushed below it; those of uniform actions stay as they are.
    """

    samples: int = 10  # of each of the three proposals
    temperature: float = 1.0
    target_gap: float = -1.0  # of the Lagrange variant; below 0 the weight is fixed
    calibrated: bool = False  # the returns are of episodes as they are: one that was cut short lacks what would follow

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "next_obs")
    agents: ClassVar = SoftActorCritic
    trains: ClassVar = ("critic", "multiplier")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or self.temperature <= 0:
            raise Refused(f"{self}: samples from 1 and a temperature above 0 are expected")

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {"": (self.reads, (*self.needs, "return_to_go") if self.calibrated else self.needs)}

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        return {"multiplier": Parameter(0.0)} if self.target_gap >= 0 else {}

    def __call__(self, agent: SoftActorCritic, batch: Batch) -> Out:
        size, action = self.samples, batch.action
        with torch.no_grad():
            uniform = 2 * agent.draws.uniform(size, *action.shape) - 1
            here, log_here = self._propose(agent, batch.obs, action)
            there, log_there = self._propose(agent, batch.next_obs, action)
            actions = torch.cat([uniform, here, there])  # [3 samples, B, A]
            log_uniform = torch.full_like(log_here, -action.shape[-1] * math.log(2))
            log_density = torch.cat([log_uniform, log_here, log_there]).transpose(0, 1)  # [B, 3 samples]
        values = agent.q(batch.obs, actions)  # [3 samples, B, critics]
        if self.calibrated:
            floor = batch.return_to_go.unsqueeze(-1)  # [B, 1]
            values = torch.cat([values[:size], torch.maximum(values[size:], floor)])
        at_data = agent.q(batch.obs, action)  # [B, critics]
        gaps = [
            conservative_gap(values[..., i].transpose(0, 1), at_data[:, i], log_density, self.temperature).mean()
            for i in range(at_data.shape[-1])
        ]
        gap = torch.stack(gaps).sum()
        metrics = {"loss": gap.detach() / len(gaps)}
        if self.target_gap < 0:
            return Out({"critic": gap}, metrics)
        excess = gap - self.target_gap * len(gaps)
        multiplier = agent.net("multiplier").exp().clamp(max=1e6)
        # The multiplier ascends on what its critic descends on.
        terms = {"critic": multiplier.detach() * excess, "multiplier": -multiplier * excess.detach()}
        return Out(terms, {**metrics, "multiplier": multiplier.detach()})

    def _propose(self, agent: SoftActorCritic, obs: Any, action: Tensor) -> tuple[Tensor, Tensor]:
        policy = agent.distribution(obs)
        wide = type(policy)(policy.mean.expand(self.samples, *action.shape), policy.log_std)
        return wide.sample_with_log_prob(agent.draws)
