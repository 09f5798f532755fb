"""Ensemble-diversified actor-critic (An et al. 2021): an additional loss for SAC with many critics."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from lfd.agents import Agent
from lfd.agents.roles import CONTINUOUS_CRITIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.maths import pairwise_cosine


@dataclass(frozen=True)
class EDACMetrics(Metrics):
    edac_loss: Annotated[Tensor, "cosines between the critics' action gradients: sum over pairs / (critics - 1)"]


@dataclass
class EDAC(Loss):
    """J_ES: mean cosine between the critics' gradients by the action, at the data's actions.

    Its weight is the paper's eta; weight 0 is SAC-N. With one dimension of actions all gradients are parallel, and the
    loss has no effect.
    """

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    uses: ClassVar = {"critic": CONTINUOUS_CRITIC}
    trains: ClassVar = ("critic",)

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[EDACMetrics]:
        edac_loss = pairwise_cosine(agent.action_gradients(batch.obs, batch.action)).mean()
        return LossOutput({"critic": edac_loss}, EDACMetrics(edac_loss))
