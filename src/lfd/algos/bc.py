"""Behaviour cloning."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from lfd.agents import PolicyAgent
from lfd.agents.distributions import Categorical
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused


class Error(Enum):
    nll = "nll"
    mse = "mse"


@dataclass
class Cloning(Loss):
    """Discrete: cross-entropy, smoothed. Continuous: negative log-likelihood, or squared error of the mode."""

    error: Error = Error.nll  # of continuous actions
    label_smoothing: float = 0.0  # of discrete actions: this share of the target is spread over all actions

    needs: ClassVar = ("obs", "action")
    agents: ClassVar = PolicyAgent
    trains: ClassVar = ("policy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise Refused(f"label_smoothing is {self.label_smoothing}; a share in [0, 1) is expected")

    def __call__(self, agent: PolicyAgent, batch: Batch) -> Out:
        policy = agent.distribution(batch.obs)
        if isinstance(policy, Categorical):
            likelihood = policy.log_prob(batch.action)
            if self.label_smoothing:
                uniform = policy.logits.log_softmax(-1).mean(-1)
                likelihood = torch.lerp(likelihood, uniform, self.label_smoothing)
            loss = -likelihood.mean()
            accuracy = (policy.mode() == batch.action).float().mean()
            return Out({"policy": loss}, {"loss": loss.detach(), "accuracy": accuracy})
        mode = policy.mode()
        loss = self._squared(mode, batch.action) if self.error is Error.mse else -policy.log_prob(batch.action).mean()
        return Out({"policy": loss}, {"loss": loss.detach(), "l1": (mode - batch.action).abs().mean().detach()})

    @staticmethod
    def _squared(mode: Tensor, action: Tensor) -> Tensor:
        return (mode - action).square().sum(-1).mean()
