"""Ensemble-diversified actor-critic (An et al. 2021): one row more beside soft actor-critic with many critics."""

from dataclasses import dataclass
from typing import ClassVar

from lfd.agents.actor_critic import SoftActorCritic
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.maths import cosine_agreement


@dataclass
class Diversity(Loss):
    """How far the critics agree on where a better action lies: the cosines of their gradients at the data, J_ES.

    Its weight is the paper's eta; 0 leaves SAC-N. With one dimension of actions the gradients are parallel whatever
    the critics are, so there it has no effect.
    """

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    agents: ClassVar = SoftActorCritic
    trains: ClassVar = ("critic",)

    def __call__(self, agent: SoftActorCritic, batch: Batch) -> Out:
        agreement = cosine_agreement(agent.action_gradients(batch.obs, batch.action)).mean()
        return Out({"critic": agreement}, {"loss": agreement.detach()})
