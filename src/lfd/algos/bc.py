"""Behavior cloning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.distributions import Categorical, Distribution, Reparameterized, Stochastic
from lfd.agents.roles import POLICY, STOCHASTIC, Role
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError


class Labels(Enum):
    """The column with the actions to clone."""

    action = "action"  # those that were taken
    expert_action = "expert_action"  # those of the expert whom the source asks


class BCObjective(Enum):
    """The error of continuous actions."""

    beta_nll = "beta_nll"  # negative log-likelihood, each dimension weighted by its variance
    nll = "nll"  # negative log-likelihood
    mse = "mse"  # squared error of the mode
    l1 = "l1"  # absolute error of the mode


@dataclass(frozen=True)
class BCMetrics(Metrics):
    bc_loss: Annotated[Tensor, "the error that `error` selects, without the entropy bonus"]
    accuracy: Annotated[Tensor | None, "share of discrete actions that the mode of the policy predicts"] = None
    mae: Annotated[Tensor | None, "mean absolute error of the mode, in halves of the range of actions"] = None
    entropy: Annotated[Tensor | None, "mean entropy of the policy in nats, if `ent_coef` is above 0"] = None


@dataclass
class BC(Loss):
    """Discrete: smoothed cross-entropy. Continuous: -log-likelihood, or squared or absolute error of the mode.

    The plain likelihood weights a state by 1 / variance: the policy raises its variance where it errs and stops
    learning there (Seitzer et al. 2022), so that clones of a deterministic expert fail for some seeds. beta_nll, their
    equation 5 with beta = 1, trains the mean as the squared error does and the spread as the likelihood does. Squared
    and absolute error leave the spread untrained.
    """

    error: BCObjective = BCObjective.beta_nll  # error of continuous actions
    label_smoothing: float = 0.0  # fraction of the target that is spread over all discrete actions
    ent_coef: float = 0.0  # weight of the entropy bonus
    labels: Labels = field(default=Labels.action, metadata={"key": "set"})  # the actions that it clones

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    uses: ClassVar = {"policy": STOCHASTIC}
    trains: ClassVar = ("policy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing: expected a fraction in [0, 1), got {self.label_smoothing}")
        if self.ent_coef < 0:
            raise UserError(f"ent_coef: expected 0 or more, got {self.ent_coef}")

    def roles(self) -> Mapping[str, Role]:
        return {"policy": POLICY} if self.mode_only and not self.ent_coef else self.uses

    @property
    def mode_only(self) -> bool:
        return self.error in (BCObjective.mse, BCObjective.l1)

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {"": (self.reads, ("obs", self.labels.value))}

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[BCMetrics]:
        policy = agent.policy(batch.obs, Distribution)
        entropy = policy.entropy().mean() if self.ent_coef and isinstance(policy, Stochastic) else None
        action = batch.action if self.labels is Labels.action else batch.expert_action
        if isinstance(policy, Categorical):
            loss = -self._smoothed_log_prob(policy, action).mean()
            metrics = BCMetrics(loss, accuracy=(policy.mode() == action).float().mean(), entropy=entropy)
        else:
            error = policy.mode() - action
            loss = self._continuous(policy, error, action)
            metrics = BCMetrics(loss, mae=error.abs().mean(), entropy=entropy)
        return LossOutput({"policy": loss if entropy is None else loss - self.ent_coef * entropy}, metrics)

    def _continuous(self, policy: Distribution, error: Tensor, action: Tensor) -> Tensor:
        """The loss [] of continuous actions [B, A]; errors [B, A] are those of the mode."""
        match self.error:
            case BCObjective.mse:
                return error.square().sum(-1).mean()
            case BCObjective.l1:
                return error.abs().sum(-1).mean()
        assert isinstance(policy, Reparameterized)
        return (policy.weighed_nll(action) if self.error is BCObjective.beta_nll else -policy.log_prob(action)).mean()

    def _smoothed_log_prob(self, policy: Categorical, action: Tensor) -> Tensor:
        """Smoothed log probabilities [B] of discrete actions [B]."""
        log_prob = policy.log_prob(action)
        if not self.label_smoothing:
            return log_prob
        return torch.lerp(log_prob, policy.logits.log_softmax(-1).mean(-1), self.label_smoothing)
