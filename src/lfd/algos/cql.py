"""Conservative Q-learning (Kumar et al. 2020)."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.distributions import Reparameterized
from lfd.agents.nets import NetSpec, ScalarSpec
from lfd.agents.roles import CONTINUOUS_CRITIC, DISCRETE_CRITIC, REPARAMETERIZED
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch, Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.maths import conservative_gap, gather_action


@dataclass(frozen=True)
class CQLDiscreteMetrics(Metrics):
    cql_loss: Annotated[Tensor, "soft maximum of Q(s, .) less Q(s, a) of the data's action, a mean over critics"]


@dataclass
class CQLDiscrete(Loss):
    """T * logsumexp_a(Q(s, a) / T) - Q(s, a_data), summed over critics: CQL(H), eq. 4, all actions listed."""

    temperature: float = 1.0  # T, of the soft maximum

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    uses: ClassVar = {"critic": DISCRETE_CRITIC}
    trains: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise UserError(f"temperature: expected a number above 0, got {self.temperature}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[CQLDiscreteMetrics]:
        all_q = agent.q_all(batch.obs)
        q = gather_action(all_q, batch.action)  # [B, critics]
        gap = conservative_gap(all_q, q, 0.0, self.temperature).mean(0).sum()
        return LossOutput({"critic": gap}, CQLDiscreteMetrics(gap.detach() / q.shape[-1]))


@dataclass(frozen=True)
class CQLContinuousMetrics(Metrics):
    cql_loss: Annotated[Tensor, "soft maximum of Q(s, .) less Q(s, a) of the data's action, a mean over critics"]
    multiplier: Annotated[Tensor | None, "Lagrange multiplier of the gap, if it has a target"] = None


@dataclass
class CQLContinuous(Loss):
    """The gap of `CQLDiscrete` with a soft maximum over sampled actions, corrected by their densities.

    `samples` are uniform, `samples` from the policy at s and `samples` from the policy at s', all evaluated at s
    (appendix F, variant with importance sampling). As in the authors' code the soft maximum is over the sum of the
    samples, not their mean: the gap is larger by the logarithm of their number. With `target_gap` >= 0 the weight of
    the gap is a multiplier that rises while the gap exceeds the target (eq. 30).

    With `calibrated` (Cal-QL, Nakamoto et al. 2023, eq. 5.1), values of the policy's actions are at least the return of
    the data from s on, so that the loss does not push them below it; values of uniform actions are unchanged.
    """

    samples: int = 10  # actions of each of the three proposals
    temperature: float = 1.0  # T, of the soft maximum
    target_gap: float = -1.0  # target of the Lagrange variant, in units of the return; below 0 = fixed weight
    calibrated: bool = False  # Cal-QL; returns of truncated episodes lack the rewards after the truncation

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "next_obs")
    uses: ClassVar = {"policy": REPARAMETERIZED, "critic": CONTINUOUS_CRITIC}
    trains: ClassVar = ("critic", "multiplier")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise UserError(f"samples: expected 1 or more, got {self.samples}")
        if self.temperature <= 0:
            raise UserError(f"temperature: expected a number above 0, got {self.temperature}")

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {"": (self.reads, (*self.needs, "return_to_go") if self.calibrated else self.needs)}

    def brings(self, spaces: Spaces) -> dict[str, NetSpec]:
        return {"multiplier": ScalarSpec(0.0)} if self.target_gap >= 0 else {}

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[CQLContinuousMetrics]:
        size, action = self.samples, batch.action
        with torch.no_grad():
            uniform = 2 * agent.rng.uniform(size, *action.shape) - 1
            here, log_here = self._propose(agent, batch.obs)
            there, log_there = self._propose(agent, batch.next_obs)
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
        cql_loss = gap.detach() / len(gaps)
        if self.target_gap < 0:
            return LossOutput({"critic": gap}, CQLContinuousMetrics(cql_loss))
        excess = gap - self.target_gap * len(gaps)
        multiplier = agent.net("multiplier").exp().clamp(max=1e6)
        # the multiplier maximizes the term that the critic minimizes
        by_group = {"critic": multiplier.detach() * excess, "multiplier": -multiplier * excess.detach()}
        return LossOutput(by_group, CQLContinuousMetrics(cql_loss, multiplier))

    def _propose(self, agent: Agent, obs: Observation) -> tuple[Tensor, Tensor]:
        """Samples actions [samples, B, A] of the policy at observations [B, ...]; log densities are [samples, B]."""
        return agent.policy(obs, Reparameterized).expand(self.samples).sample_with_log_prob(agent.rng)
