"""TD3+BC (Fujimoto and Gu 2021): the policy of TD3 that also clones the data; its critics are TD3's."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from lfd.agents import Agent
from lfd.agents.distributions import Distribution
from lfd.agents.roles import CONTINUOUS_CRITIC, POLICY
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError


@dataclass(frozen=True)
class TD3BCActorMetrics(Metrics):
    actor_loss: Annotated[Tensor, "the loss of the policy, both parts of it"]
    bc_loss: Annotated[Tensor, "squared error of the policy, a mean over dimensions, in halves of the range of actions"]


@dataclass
class TD3BCActor(Loss):
    """-lambda * Q_1(s, pi(s)) + (pi(s) - a)^2, lambda = alpha / mean |Q_1(s, pi(s))| (eq. 3 and 5).

    The squared error is averaged over the dimensions of an action too, as in the authors' code.
    """

    alpha: float = 2.5  # weight of the value term; 0 = behavior cloning only

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    uses: ClassVar = {"policy": POLICY, "critic": CONTINUOUS_CRITIC}
    trains: ClassVar = ("policy",)
    through_critic: ClassVar = ("policy",)
    revision: ClassVar = 2  # delayed target networks are updated in the steps of the policy

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise UserError(f"alpha: expected 0 or more, got {self.alpha}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[TD3BCActorMetrics]:
        action = agent.policy(batch.obs, Distribution).mode()
        q = agent.q(batch.obs, action, only=1)
        q_weight = self.alpha / q.detach().abs().mean()
        bc_loss = (action - batch.action).square().mean()
        actor_loss = bc_loss - q_weight * q.mean()
        return LossOutput({"policy": actor_loss}, TD3BCActorMetrics(actor_loss, bc_loss))
