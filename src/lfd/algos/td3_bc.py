"""TD3+BC (Fujimoto and Gu 2021): the policy of TD3 that also clones the data; its critics are TD3's."""

from dataclasses import dataclass
from typing import ClassVar

from lfd.agents.deterministic import DeterministicActorCritic
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused


@dataclass
class TD3BC(Loss):
    """-lambda * Q_1(s, pi(s)) + (pi(s) - a)^2, lambda = alpha / mean |Q_1(s, pi(s))| (eq. 3 and 5).

    The squared error is averaged over the dimensions of an action too, as in the authors' code.
    """

    alpha: float = 2.5  # weight of the values beside the cloning; 0 is cloning alone

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    agents: ClassVar = DeterministicActorCritic
    trains: ClassVar = ("policy",)
    revision: ClassVar = 2  # delayed slow copies follow in the steps of the policy

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise Refused(f"alpha of TD3+BC is {self.alpha}; 0 or more is expected")

    def __call__(self, agent: DeterministicActorCritic, batch: Batch) -> Out:
        action = agent.action(batch.obs)
        values = agent.first_q(batch.obs, action)
        scale = self.alpha / values.detach().abs().mean()
        error = (action - batch.action).square().mean()
        loss = error - scale * values.mean()
        return Out({"policy": loss}, {"loss": loss.detach(), "error": error.detach()})
