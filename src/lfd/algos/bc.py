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
    beta_nll = "beta_nll"  # likelihood, each dimension weighed by its variance
    nll = "nll"
    mse = "mse"
    l1 = "l1"


@dataclass
class Cloning(Loss):
    """Discrete: smoothed cross-entropy. Continuous: -log-likelihood, or squared or absolute error of the mode.

    Under the plain likelihood a state counts by 1 / variance, so that the policy explains states where it errs by a
    large variance and learns no more there (Seitzer et al. 2022): a clone of a deterministic expert fails by chance.
    beta_nll, by their equation 5 with beta = 1, moves the mean as the squared error does and the spread as the
    likelihood does. Squared and absolute error leave the spread untrained.
    """

    error: Error = Error.beta_nll  # of continuous actions
    label_smoothing: float = 0.0  # of discrete actions: this share of the target is spread over all actions
    entropy: float = 0.0  # weight of the entropy bonus

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    agents: ClassVar = PolicyAgent
    trains: ClassVar = ("policy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise Refused(f"label_smoothing is {self.label_smoothing}; a share in [0, 1) is expected")
        if self.entropy < 0:
            raise Refused(f"entropy is {self.entropy}; a weight from 0 is expected")

    @property
    def mode_only(self) -> bool:
        return self.error in (Error.mse, Error.l1)

    def __call__(self, agent: PolicyAgent, batch: Batch) -> Out:
        policy = agent.distribution(batch.obs)
        if isinstance(policy, Categorical):
            loss = -self._likelihood(policy, batch.action).mean()
            metrics = {"loss": loss.detach(), "accuracy": (policy.mode() == batch.action).float().mean()}
        else:
            error = policy.mode() - batch.action
            match self.error:
                case Error.beta_nll:
                    loss = policy.weighed_nll(batch.action).mean()
                case Error.nll:
                    loss = -policy.log_prob(batch.action).mean()
                case Error.mse:
                    loss = error.square().sum(-1).mean()
                case Error.l1:
                    loss = error.abs().sum(-1).mean()
            metrics = {"loss": loss.detach(), "l1": error.abs().mean().detach()}
        if self.entropy:
            entropy = policy.entropy().mean()
            loss, metrics = loss - self.entropy * entropy, metrics | {"entropy": entropy.detach()}
        return Out({"policy": loss}, metrics)

    def _likelihood(self, policy: Categorical, action: Tensor) -> Tensor:
        likelihood = policy.log_prob(action)
        if not self.label_smoothing:
            return likelihood
        return torch.lerp(likelihood, policy.logits.log_softmax(-1).mean(-1), self.label_smoothing)
