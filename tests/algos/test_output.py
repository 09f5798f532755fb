"""What losses return: typed metrics, their names in the log and the docs, and the example of the README."""

import re
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lfd.algos import LossOutput, Metrics
from lfd.algos.bc import BCMetrics
from lfd.algos.td3 import TD3CriticMetrics
from lfd.learner.learner import Algo, Learner
from lfd.registry import parts
from tests import composed
from tests.algos.cases import BATCH, TWO, VECTOR, spaces

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "metrics.py"))
IMPORTS = """
from dataclasses import dataclass
from typing import ClassVar
from torch import Tensor
from lfd.agents import Agent
from lfd.agents.roles import STOCHASTIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
"""


def test_metric_of_a_misspelled_name_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'critic_los'"):
        TD3CriticMetrics(critic_los=torch.zeros(()), q_mean=torch.zeros(()))
    with pytest.raises(AttributeError, match="q_maen"):
        _ = TD3CriticMetrics(torch.zeros(()), torch.zeros(())).q_maen


def test_metrics_are_detached_and_named_by_row_without_none():
    loss = torch.ones((), requires_grad=True) * 2
    named = BCMetrics(loss, accuracy=torch.zeros(())).named("clone")
    assert list(named) == ["clone/bc_loss", "clone/accuracy"]
    assert named["clone/bc_loss"] == 2 and not named["clone/bc_loss"].requires_grad and loss.requires_grad


@pytest.mark.parametrize("option", parts("loss"))
def test_registered_losses_document_their_metrics_and_log_a_loss(option):
    metrics = SCRIPT["metrics_of"](parts("loss")[option])
    assert any(name.endswith("_loss") for name in metrics)
    assert all(len(meaning) > 5 for meaning in metrics.values()), metrics


def test_metrics_page_equals_the_losses_metrics():
    assert SCRIPT["PAGE"].read_text() == SCRIPT["page"](), "run python scripts/metrics.py"


@pytest.mark.parametrize("members", [1, 2])
def test_readme_example_trains_and_logs_its_metric(members):
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = [one for one in examples if "class Mine(Loss)" in one]
    namespace = {"__name__": "mine"}
    exec(IMPORTS + example, namespace)  # noqa: S102 - the README's own words
    algo = Algo(composed.policy([8]), {"mine": namespace["Mine"]("demos")}, lr=1e-2)
    agents = [composed.policy([8]).build(spaces(VECTOR, TWO)) for _ in range(members)]
    learner = Learner(agents, algo, 0, torch.device("cpu"))
    batch = BATCH if members == 1 else BATCH.map(lambda column: torch.stack([column] * members))
    losses = [learner.step({"demos": batch}, ["mine"])[0]["mine/mine_loss"] for _ in range(20)]
    assert losses[0].shape == (() if members == 1 else (members,))
    assert (losses[-1] < losses[0]).all()
    assert any(learner._replay.programs.values())


def test_outputs_of_several_losses_pass_through_members():
    """Trap: a field that is None is no tensor, which vmap refuses to return."""

    @dataclass(frozen=True)
    class SomeMetrics(Metrics):
        some_loss: torch.Tensor
        never: torch.Tensor | None = None

    def output(x):
        return LossOutput({"policy": x.sum()}, SomeMetrics(x.sum()), updates={"nets.x": x})

    found = torch.vmap(output)(torch.ones(2, 3))
    assert found.metrics.some_loss.tolist() == [3, 3] and found.metrics.never is None
    assert found.updates["nets.x"].shape == (2, 3) and found.feedback == {}
