"""Adversarial inverse reinforcement learning (Fu, Luo and Levine 2018): a reward that transfers to other dynamics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import REWARD, Agent
from lfd.agents.nets import NetInputs, NetSpec
from lfd.agents.reward_model import Inputs, RewardNet
from lfd.agents.roles import STOCHASTIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.maths import discriminator_accuracy, discriminator_loss
from lfd.nets import Activation, Net, zero_init_output


class ShapedReward(nn.Module):
    """f(s, a, s') = r(s[, a]) + discount * h(s') - h(s) in training, r alone once stored: [B, ...] -> [B].

    The discount is 0 where the episode terminated: h is 0 after its end.
    """

    recordable = True

    def __init__(self, spaces: Spaces, spec: "ShapedRewardSpec") -> None:
        super().__init__()
        self.shaped = True
        self.base = RewardNet(spaces, spec.hidden, spec.activation, spec.inputs)
        self.potential = Net(spaces.observation, spec.hidden, 1, spec.activation)
        for net in (self.base, self.potential):
            # f starts at 0, as a random reward would bias the policy
            zero_init_output(net.head)

    def publish(self) -> None:
        """Drops the potential h, which depends on the dynamics of the training environment."""
        self.shaped = False

    def forward(self, batch: Batch) -> Tensor:
        """Rewards [B] of preprocessed transitions [B, ...]."""
        reward: Tensor = self.base(batch)
        if not self.shaped:
            return reward
        here, there = (self.potential(obs).squeeze(-1) for obs in (batch.obs, batch.next_obs))
        shaped: Tensor = reward + batch.discount * there - here
        return shaped


@dataclass
class ShapedRewardSpec(NetSpec):
    """A reward, and a potential that shapes it in training."""

    on_trunk: ClassVar[bool] = False

    hidden: list[int] = field(default_factory=lambda: [32, 32])  # units per hidden layer of r and of h
    activation: Activation = Activation.tanh  # of hidden layers
    inputs: Inputs = Inputs.obs  # inputs of r; only a reward of states transfers to other dynamics

    def build(self, inputs: NetInputs) -> ShapedReward:
        return ShapedReward(inputs.spaces, self)


@dataclass(frozen=True)
class AIRLMetrics(Metrics):
    discriminator_loss: Annotated[Tensor, "binary cross-entropy of D, summed over both sides, in nats"]
    accuracy_expert: Annotated[Tensor, "share of the expert's transitions that D takes for the expert's"]
    accuracy_learner: Annotated[Tensor, "share of the learner's transitions that D takes for the learner's"]


@dataclass
class AIRL(Loss):
    """-E_expert log D - E_learner log(1 - D) with D = exp f / (exp f + pi(a|s)), with pi the present policy."""

    hidden: list[int] = field(default_factory=lambda: [32, 32])  # units per hidden layer of r and of h
    activation: Activation = Activation.tanh  # of hidden layers
    inputs: Inputs = Inputs.obs  # inputs of r; only a reward of states transfers to other dynamics

    recordable: ClassVar = True
    needs: ClassVar = {slot: ("obs", "action", "next_obs", "discount") for slot in ("learner", "expert")}
    uses: ClassVar = {"policy": STOCHASTIC}
    trains: ClassVar = (REWARD,)

    def brings(self, spaces: Spaces) -> dict[str, NetSpec]:
        return {REWARD: ShapedRewardSpec(self.hidden, self.activation, self.inputs)}

    def __call__(self, agent: Agent, batch: Mapping[str, Batch]) -> LossOutput[AIRLMetrics]:
        learner, expert = (self._logit(agent, batch[slot]) for slot in ("learner", "expert"))
        loss = discriminator_loss(learner, expert)
        return LossOutput({REWARD: loss}, AIRLMetrics(loss, *discriminator_accuracy(learner, expert)))

    def _logit(self, agent: Agent, batch: Batch) -> Tensor:
        """f - log pi [B] of transitions [B, ...]."""
        with torch.no_grad():
            log_prob = agent.policy(batch.obs).log_prob(batch.action)
        logit: Tensor = agent.nets[REWARD](batch) - log_prob
        return logit
