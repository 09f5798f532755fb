"""Fitted Q evaluation (Le, Voloshin and Yue 2019): the value of a policy from data of other policies."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.roles import CRITIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch, Observation
from lfd.maths import critic_mse, over_critics, td_target

EVALUATED = "policy"  # role of the frozen policy that is evaluated


@torch.no_grad()
def policy_action(agent: Agent, obs: Observation) -> Tensor:
    """Greedy actions of the evaluated policy, [B] or [B, A]; observations and actions in network units."""
    policy = agent.frozen[EVALUATED]
    # the policy normalizes observations by itself and returns actions in units of the space
    raw = agent.unprocess(Batch(obs=obs)).obs
    first = next(iter(raw.values())) if isinstance(raw, dict) else raw
    action, _ = policy.act(raw, policy.initial_state(len(first)), None)
    action = agent.preprocess(Batch(action=action)).action
    # clipped as in an environment: the mean of a Gaussian may lie far outside the bounds
    return action.clamp(-1, 1) if agent.continuous else action


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
    uses: ClassVar = {"critic": CRITIC}
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("critic",)

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[FQEMetrics]:
        with torch.no_grad():
            next_q = agent.q(batch.next_obs, policy_action(agent, batch.next_obs), target=True)
            target = td_target(batch.reward, batch.discount, over_critics(torch.mean, next_q))
        q = agent.q(batch.obs, batch.action)
        critic_loss = critic_mse(q, target)
        return LossOutput({"critic": critic_loss}, FQEMetrics(critic_loss, q.mean()))
