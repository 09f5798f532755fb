"""T-REX: a reward that agrees with how episodes are ranked."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfd.agents import REWARD, Agent
from lfd.agents.judge import Inputs, RewardNet
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.nets import Activation

SLOWEST = 0.01  # share of a step's rewards in their statistics, once many steps were seen


class Scaled(RewardNet):
    """A reward on the scale of what it was trained on: buffers hold mean and spread of its latest answers there.

    Called, it answers (r - shift) / std, or if `bounded` the tanh of that. The shift is the mean, unless an episode of
    the data terminated: where the agent can end an episode, or keep it from ending, a shift of the reward is another
    task, and the reward keeps the sign that it was trained to.
    """

    recordable = True

    mean: Tensor
    square: Tensor
    terminated: Tensor
    steps: Tensor

    def __init__(
        self, spaces: Spaces, hidden: list[int], activation: Activation, inputs: Inputs, bounded: bool
    ) -> None:
        super().__init__(spaces, hidden, activation, inputs)
        self.bounded = bounded
        for name, value in (("mean", 0.0), ("square", 1.0), ("terminated", 0.0), ("steps", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    @property
    def std(self) -> Tensor:
        return (self.square - self.mean.square()).clamp_min(1e-12).sqrt()

    def raw(self, batch: Batch) -> Tensor:
        """The reward as it is trained, [B, ...]."""
        return super().forward(batch)

    @torch.no_grad()
    def see(self, reward: Tensor, batch: Batch) -> None:
        """Let rewards of valid rows into the statistics."""
        self.steps += 1
        share = (1 / self.steps).clamp_min(SLOWEST)
        count = batch.valid.sum()
        self.mean += share * (torch.where(batch.valid, reward, 0.0).sum() / count - self.mean)
        self.square += share * (torch.where(batch.valid, reward.square(), 0.0).sum() / count - self.square)
        self.terminated.copy_(self.terminated.maximum((batch.valid & batch.terminated).any().float()))

    def forward(self, batch: Batch) -> Tensor:
        scaled = (self.raw(batch) - self.mean * (1 - self.terminated)) / self.std
        return scaled.tanh() if self.bounded else scaled


@dataclass
class TREX(Loss):
    """-log P(the better piece is preferred), P = exp R_better / (exp R_better + exp R_worse), R the sum of r over it.

    Brown et al. 2019, equation 2; Bradley and Terry 1952. What is learnt is a reward up to shift and scale: pieces of
    equal length cannot tell the first, nor does a policy depend on the second. The product is therefore scaled to unit
    spread on the demonstrations, and shifted to zero mean there if no episode of them terminated (see `Scaled`).
    """

    inputs: Inputs = Inputs.obs  # what the reward looks at
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    activation: Activation = Activation.relu
    l1: float = 0.0  # times the sum of |r| over a pair
    # The product is in (-1, 1): however far from the demonstrations a state is, it cannot outweigh many that are near.
    # The authors' agents learn from a sigmoid, which would pay for every step, also of a task that is to end soon.
    bounded: bool = False

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "next_obs", "terminated", "preferred", "valid")
    agents: ClassVar = Agent
    trains: ClassVar = (REWARD,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.l1 < 0:
            raise Refused(f"l1 is {self.l1}; 0 or more is expected")

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        unseen = {"action", "next_obs"} - {self.inputs.value.removeprefix("obs_")}
        return {"": (self.reads, tuple(name for name in self.needs if name not in unseen))}

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        return {REWARD: Scaled(agent.spaces, self.hidden, self.activation, self.inputs, self.bounded)}

    def __call__(self, agent: Agent, batch: Batch) -> Out:
        net = agent.nets[REWARD]
        assert isinstance(net, Scaled)
        reward = net.raw(batch)
        if torch.is_grad_enabled():  # a validation leaves the statistics alone
            net.see(reward.detach(), batch)
        shown = torch.where(batch.valid, reward, 0.0)
        first, second = shown.sum(-1).unbind(-1)
        margin = (second - first) * (2 * batch.preferred - 1)
        loss = F.softplus(-margin).mean()
        if self.l1:
            loss = loss + self.l1 * shown.abs().sum((-2, -1)).mean()
        accuracy = (margin > 0).float().mean()
        metrics = {"loss": loss.detach(), "accuracy": accuracy, "margin": margin.mean().detach()}
        return Out({REWARD: loss}, metrics)
