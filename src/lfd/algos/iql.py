"""Implicit Q-learning (Kostrikov et al. 2022): values of the data's actions alone."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.roles import CRITIC, STATE_VALUE, STOCHASTIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import critic_mse, exp_advantage_weight, expectile, td_target


@dataclass(frozen=True)
class IQLMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, summed over critics, in squared units of the return"]
    actor_loss: Annotated[Tensor, "weighted negative log-likelihood of the data's actions, in nats"]
    value_loss: Annotated[Tensor, "expectile error of V, in squared units of the return"]
    v_mean: Annotated[Tensor, "mean V(s)"]
    weight_mean: Annotated[Tensor, "mean weight of a cloned action"]


@dataclass
class IQL(Loss):
    """V by the expectile of u = min Qbar(s, a) - V(s) (eq. 5), and critics to r + discount * V(s') (eq. 6).

    The policy clones each action with weight min(exp(beta * u), exp_adv_max) (eq. 7).
    """

    expectile: float = 0.7  # 0.5 is the mean over the data's actions, towards 1 their maximum; 0.9 in AntMaze
    beta: float = 3.0  # inverse temperature, in units of 1 / return; 3 in MuJoCo, 10 in AntMaze
    exp_adv_max: float = 100.0  # largest weight of a cloned action

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"policy": STOCHASTIC, "critic": CRITIC, "value": STATE_VALUE}
    trains: ClassVar = ("policy", "critic", "value")
    targets: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.expectile < 1:
            raise UserError(f"expectile: expected a number in (0, 1), got {self.expectile}")
        if self.beta <= 0:
            raise UserError(f"beta: expected a number above 0, got {self.beta}")
        if self.exp_adv_max <= 0:
            raise UserError(f"exp_adv_max: expected a number above 0, got {self.exp_adv_max}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[IQLMetrics]:
        with torch.no_grad():
            next_v = agent.value(batch.next_obs)
            target = td_target(batch.reward, batch.discount, next_v)
        v = agent.value(batch.obs)
        adv = agent.q(batch.obs, batch.action, target=True).amin(-1) - v
        critic_loss = critic_mse(agent.q(batch.obs, batch.action), target)
        # a product with beta would differ in the last bit, and the documented scores were measured with this quotient
        weight = exp_advantage_weight(adv / (1 / self.beta), self.exp_adv_max)
        actor_loss = -(weight * agent.policy(batch.obs).log_prob(batch.action)).mean()
        value_loss = expectile(adv, self.expectile).mean()
        by_group = {"value": value_loss, "critic": critic_loss, "policy": actor_loss}
        return LossOutput(by_group, IQLMetrics(critic_loss, actor_loss, value_loss, v.mean(), weight.mean()))
