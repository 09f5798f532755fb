"""Random expert distillation against its equations in numpy."""

import numpy as np
import pytest
import torch

from lfd.agents import REWARD
from lfd.agents.judge import JudgeSpec
from lfd.algos.red import RED
from lfd.errors import Refused
from lfd.learner import Algo, Learner
from tests.algos.cases import TWO, VECTOR, answer, batch, by_hand, float64, spaces

ROWS = batch(VECTOR, TWO, 1)


def new_agent(**settings):
    loss = RED("demos", hidden=[8, 8], outputs=3, **settings)
    agent = JudgeSpec().build(spaces(VECTOR, TWO))
    agent.add(loss.modules(agent))
    torch.nn.init.constant_(agent.nets[REWARD].scale.value, 0.05)
    return agent, loss


def errors(net, rows):
    shown = (float64(rows.obs), np.eye(2)[rows.action])
    return ((by_hand(net.learnt, *shown) - by_hand(net.random, *shown)) ** 2).mean(-1)


def test_loss_and_reward():
    agent, loss = new_agent(expert=0.9)
    net, sigma = agent.nets[REWARD], np.exp(10 * 0.05)
    out = answer(loss, agent, ROWS)
    error = errors(net, ROWS)
    assert out.metrics["loss"].item() == pytest.approx(error.mean(), rel=1e-5)
    scale = sigma * error.mean() + np.log(0.9) * 0.5
    assert out.terms[REWARD].item() == pytest.approx(error.mean() + scale, rel=1e-5)
    np.testing.assert_allclose(float64(net(ROWS)), np.exp(-sigma * error), rtol=1e-5)


def test_the_demonstrations_come_to_be_worth_what_was_asked_and_all_else_less():
    agent, loss = new_agent(expert=0.8)
    random = {name: value.clone() for name, value in agent.nets[REWARD].random.state_dict().items()}
    learner = Learner([agent], Algo(JudgeSpec(), {"red": loss}, lr=3e-3), 0, torch.device("cpu"))
    for _ in range(1_000):
        learner.step({"demos": ROWS}, ["red"])
    net = agent.nets[REWARD]
    assert net(ROWS).mean().item() == pytest.approx(0.8, abs=0.08)
    assert net(batch(VECTOR, TWO, 5, 64)).mean() < 0.4
    assert all(torch.equal(value, random[name]) for name, value in net.random.state_dict().items())


def test_the_random_network_is_saved_with_the_reward():
    agent, _ = new_agent()
    other, _ = new_agent()
    other.nets[REWARD].random.head[0].weight.add_(1)
    other.load_state_dict(agent.state_dict())
    assert torch.equal(other.nets[REWARD](ROWS), agent.nets[REWARD](ROWS))


@pytest.mark.parametrize("wrong", [{"outputs": 0}, {"expert": 1.0}, {"expert": 0.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(Refused, match="expected"):
        RED("demos", **wrong)
