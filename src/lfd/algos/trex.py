"""T-REX (Brown et al. 2019): a reward learned from preferences between ranked episodes."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lfd.agents import REWARD, Agent
from lfd.agents.nets import NetInputs, NetSpec
from lfd.agents.reward_model import Inputs, RewardNet
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.nets import Activation

MIN_SHARE = 0.01  # minimum weight of a batch in the running means of the reward


class Scaled(RewardNet):
    """A reward in units of its spread on the training data; buffers hold running means of it and of its square.

    Its output is (r - shift) / std, [B, ...] -> [B], or with `bounded` the tanh of that. The shift is the mean, or 0 if
    an episode of the data terminated: where the agent can end an episode or prolong it, a shifted reward is another
    task, and the reward keeps its sign.
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
        """The running standard deviation []."""
        return (self.square - self.mean.square()).clamp_min(1e-12).sqrt()

    def raw(self, batch: Batch) -> Tensor:
        """The unscaled reward [B, ...], which is trained."""
        return super().forward(batch)

    @torch.no_grad()
    def next_statistics(self, reward: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Returns the next values [] of the buffers, with rewards [B, 2, L] of the batch's valid rows."""
        steps = self.steps + 1
        share = (1 / steps).clamp_min(MIN_SHARE)
        count = batch.valid.sum()
        mean = torch.where(batch.valid, reward, 0.0).sum() / count
        square = torch.where(batch.valid, reward.square(), 0.0).sum() / count
        return {
            "steps": steps,
            "mean": self.mean + share * (mean - self.mean),
            "square": self.square + share * (square - self.square),
            "terminated": self.terminated.maximum((batch.valid & batch.terminated).any().float()),
        }

    def forward(self, batch: Batch) -> Tensor:
        """Rewards [B] of preprocessed transitions [B, ...]."""
        scaled = (self.raw(batch) - self.mean * (1 - self.terminated)) / self.std
        return scaled.tanh() if self.bounded else scaled


@dataclass
class ScaledSpec(NetSpec):
    """A reward in units of its spread on the training data."""

    on_trunk: ClassVar[bool] = False

    inputs: Inputs = Inputs.obs  # inputs of the reward
    hidden: list[int] = field(default_factory=lambda: [64, 64])  # units per hidden layer
    activation: Activation = Activation.relu  # of hidden layers
    bounded: bool = False  # bound the reward to (-1, 1)

    def build(self, inputs: NetInputs) -> Scaled:
        return Scaled(inputs.spaces, self.hidden, self.activation, self.inputs, self.bounded)


@dataclass(frozen=True)
class TREXMetrics(Metrics):
    preference_loss: Annotated[Tensor, "cross-entropy of the preferences in nats, and the penalty of `l1`"]
    accuracy: Annotated[Tensor, "fraction of pairs whose better segment has the larger sum of rewards"]
    margin: Annotated[Tensor, "mean difference of the sums of rewards of the better and the worse segment"]


@dataclass
class TREX(Loss):
    """-log P, P = exp R_better / (exp R_better + exp R_worse), with R the sum of rewards r of a segment.

    Brown et al. 2019, equation 2; Bradley and Terry 1952. The loss determines the reward up to shift and scale:
    segments of equal length do not determine the shift, and a policy does not depend on the scale. The stored reward
    therefore has unit spread on the demonstrations, and zero mean there if none of their episodes terminated
    (`Scaled`).
    """

    inputs: Inputs = Inputs.obs  # inputs of the reward
    hidden: list[int] = field(default_factory=lambda: [64, 64])  # units per hidden layer
    activation: Activation = Activation.relu  # of hidden layers
    l1: float = 0.0  # weight of the sum of |r| over a pair
    # bound the stored reward to (-1, 1), so that one state far from the demonstrations cannot outweigh many near ones;
    # the authors' agents learn from a sigmoid, which rewards every step, also in tasks that should end soon
    bounded: bool = False

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "next_obs", "terminated", "preferred", "valid")
    trains: ClassVar = (REWARD,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.l1 < 0:
            raise UserError(f"l1: expected 0 or more, got {self.l1}")

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        unseen = {"action", "next_obs"} - {self.inputs.value.removeprefix("obs_")}
        return {"": (self.reads, tuple(name for name in self.needs if name not in unseen))}

    def brings(self, spaces: Spaces) -> dict[str, NetSpec]:
        return {REWARD: ScaledSpec(self.inputs, self.hidden, self.activation, self.bounded)}

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[TREXMetrics]:
        net = agent.nets[REWARD]
        assert isinstance(net, Scaled)
        reward = net.raw(batch)
        valid = torch.where(batch.valid, reward, 0.0)
        first, second = valid.sum(-1).unbind(-1)
        margin = (second - first) * (2 * batch.preferred - 1)
        loss = F.softplus(-margin).mean()
        if self.l1:
            loss = loss + self.l1 * valid.abs().sum((-2, -1)).mean()
        metrics = TREXMetrics(loss, (margin > 0).float().mean(), margin.mean())
        updates = {f"nets.{REWARD}.{name}": value for name, value in net.next_statistics(reward, batch).items()}
        return LossOutput({REWARD: loss}, metrics, updates=updates)
