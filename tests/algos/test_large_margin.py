"""DQfD's supervised loss against its equation in float64."""

import pytest
import torch

from lfd.agents.config import AgentConfig
from lfd.agents.nets import QEnsembleSpec
from lfd.algos.large_margin import LargeMargin
from lfd.errors import UserError
from tests import composed
from tests.algos.cases import BATCH, TWO, VECTOR, answer, by_hand, float64, gradients, spaces, stir


def tilted(critics=1):
    """An agent whose values prefer one action in some rows and the other in others, within the margin and beyond."""
    agent = AgentConfig({"critic": QEnsembleSpec(critics=critics)}, hidden=[8]).build(spaces(VECTOR, TWO))
    stir(agent.nets["critic"], 3, scale=0.5)
    return agent


@pytest.mark.parametrize("margin", [0.0, 0.8])
def test_large_margin_term_row_by_row(margin):
    agent = tilted(critics=2)
    total, right = 0.0, 0
    by_critic = [by_hand(net, float64(BATCH.obs)) for net in agent.nets["critic"].nets]
    for row, expert in enumerate(BATCH.action.tolist()):
        for values in by_critic:
            raised = [value + margin * (action != expert) for action, value in enumerate(values[row])]
            total += max(raised) - values[row][expert]
        right += sum(values[row] for values in by_critic).argmax() == expert
    out = answer(LargeMargin("data", margin=margin), agent, BATCH)
    assert 0 < right < len(BATCH.action)
    assert out.by_group["critic"].item() == pytest.approx(total / len(BATCH.action), rel=1e-5)
    assert out.metrics.accuracy.item() == pytest.approx(right / len(BATCH.action))


def test_large_margin_is_zero_beyond_the_margin():
    agent = composed.q_net([8]).build(spaces(VECTOR, TWO))
    bias = list(agent.nets["critic"].parameters())[-1]
    zeros = BATCH.having(action=torch.zeros_like(BATCH.action))
    with torch.no_grad():
        bias.copy_(torch.tensor([100.0, 0.0]))
    term = answer(LargeMargin("data"), agent, zeros).by_group["critic"]
    assert term.item() == 0 and all((part == 0).all() for part in gradients(term, agent.nets["critic"]))


def test_large_margin_raises_the_expert_and_lowers_the_largest_value():
    agent = composed.q_net([8]).build(spaces(VECTOR, TWO))
    bias = list(agent.nets["critic"].parameters())[-1]
    zeros = BATCH.having(action=torch.zeros_like(BATCH.action))
    with torch.no_grad():
        bias.copy_(torch.tensor([0.0, 100.0]))
    (gradient,) = torch.autograd.grad(answer(LargeMargin("data"), agent, zeros).by_group["critic"], [bias])
    assert gradient.tolist() == pytest.approx([-1.0, 1.0])


def test_large_margin_below_zero_is_refused():
    with pytest.raises(UserError, match="^margin: expected 0 or more, got -1"):
        LargeMargin("data", margin=-1)
