"""Adversarial inverse reinforcement learning (Fu, Luo and Levine 2018): a reward that can be taken elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import REWARD, Agent, PolicyAgent
from lfd.agents.judge import Inputs, RewardNet
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.maths import told_apart
from lfd.nets import Activation, Net, silence


class ShapedReward(nn.Module):
    """f(s, a, s') = r(s[, a]) + discount * h(s') - h(s) while it is trained, r alone as a product: [B, ...] -> [B].

    The discount is 0 where the episode terminated, so that h is 0 behind its end.
    """

    recordable = True

    def __init__(self, spaces: Spaces, loss: "AIRL") -> None:
        super().__init__()
        self.shaped = True
        self.base = RewardNet(spaces, loss.hidden, loss.activation, loss.inputs)
        self.potential = Net(spaces.observation, loss.hidden, 1, loss.activation)
        for net in (self.base, self.potential):
            # f is 0 until it has learnt: a random taste would be followed before that.
            silence(net.head)

    def publish(self) -> None:
        """Leave out the potential, which is of the dynamics that it was trained in."""
        self.shaped = False

    def forward(self, batch: Batch) -> Tensor:
        reward: Tensor = self.base(batch)
        if not self.shaped:
            return reward
        here, there = (self.potential(obs).squeeze(-1) for obs in (batch.obs, batch.next_obs))
        shaped: Tensor = reward + batch.discount * there - here
        return shaped


@dataclass
class AIRL(Loss):
    """-E_expert log D - E_learner log(1 - D) with D = exp f / (exp f + pi(a|s)), under the policy as it is now."""

    hidden: list[int] = field(default_factory=lambda: [32, 32])  # units of each hidden layer, of r and of h
    activation: Activation = Activation.tanh
    inputs: Inputs = Inputs.obs  # of r: a reward of states alone is the one that goes with other dynamics

    recordable: ClassVar = True
    needs: ClassVar = {slot: ("obs", "action", "next_obs", "discount") for slot in ("learner", "expert")}
    agents: ClassVar = PolicyAgent
    calls: ClassVar = "log pi(a|s)"
    trains: ClassVar = (REWARD,)

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        return {REWARD: ShapedReward(agent.spaces, self)}

    def __call__(self, agent: PolicyAgent, batch: Mapping[str, Batch]) -> Out:
        learner, expert = (self._logit(agent, batch[slot]) for slot in ("learner", "expert"))
        loss, metrics = told_apart(learner, expert)
        return Out({REWARD: loss}, metrics)

    def _logit(self, agent: PolicyAgent, batch: Batch) -> Tensor:
        with torch.no_grad():
            log_prob = agent.distribution(batch.obs).log_prob(batch.action)
        logit: Tensor = agent.nets[REWARD](batch) - log_prob
        return logit
