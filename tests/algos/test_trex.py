"""T-REX against Bradley and Terry by hand, and what its reward is scaled by."""

import math

import numpy as np
import pytest
import torch

from lfd.agents import REWARD
from lfd.agents.reward_model import Inputs
from lfd.algos.trex import TREX
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner
from tests import composed
from tests.algos.cases import BOX, TWO, VECTOR, answer, built, float64, gradients, pairs, spaces


def agent_of(loss):
    agent = built(composed.reward_model(), spaces(VECTOR, TWO), loss)
    return agent


def seen(loss, agent, batch):
    """The loss's output, its statistics written as the learner writes them."""
    out = answer(loss, agent, batch)
    for name, value in out.updates.items():
        agent.get_buffer(name).copy_(value)
    return out


def rewards(net, obs):
    """r of observations [..., 4] in numpy and float64."""
    x = float64(obs)
    first, _, second = net.head
    x = np.maximum(x @ float64(first.weight).T + float64(first.bias), 0)
    return (x @ float64(second.weight).T + float64(second.bias))[..., 0]


@pytest.mark.parametrize("l1", [0.0, 0.3])
def test_trex_loss_equals_its_equation(l1):
    loss = TREX("data", hidden=[8], l1=l1)
    agent, batch = agent_of(loss), pairs(VECTOR, TWO, 1)
    out = answer(loss, agent, batch)
    shown = rewards(agent.nets[REWARD], batch.obs) * batch.valid.numpy()
    returns = shown.sum(-1)
    expected, right, margins = [], [], []
    for pair, better in zip(returns, batch.preferred.tolist(), strict=True):
        chance = math.exp(pair[better]) / (math.exp(pair[0]) + math.exp(pair[1]))
        expected.append(-math.log(chance))
        right.append(pair[better] > pair[1 - better])
        margins.append(pair[better] - pair[1 - better])
    expected = np.mean(expected) + l1 * np.mean([np.abs(pair).sum() for pair in shown])
    assert out.by_group[REWARD].item() == pytest.approx(expected, rel=1e-5)
    assert out.metrics.accuracy.item() == pytest.approx(np.mean(right))
    assert out.metrics.margin.item() == pytest.approx(np.mean(margins), rel=1e-5)


def test_trex_step_raises_the_better_segments_reward_and_lowers_the_others():
    loss = TREX("data", hidden=[8])
    agent, batch = agent_of(loss), pairs(VECTOR, TWO, 1, count=1)
    net = agent.nets[REWARD]

    def margin():
        shown = torch.where(batch.valid, net.raw(batch), 0.0).sum(-1)[0]
        return (shown[batch.preferred[0]] - shown[1 - batch.preferred[0]]).item()

    before = margin()
    found = gradients(answer(loss, agent, batch).by_group[REWARD], net)
    with torch.no_grad():
        for parameter, gradient in zip(net.parameters(), found, strict=True):
            parameter -= 0.01 * gradient
    assert margin() > before
    turned = batch.having(preferred=1 - batch.preferred)
    assert answer(loss, agent, turned).metrics.margin.item() == pytest.approx(-margin(), rel=1e-4)


def test_trex_ignores_the_padding():
    loss = TREX("data", hidden=[8], l1=0.1)
    batch = pairs(VECTOR, TWO, 1)
    batch = batch.having(terminated=torch.zeros_like(batch.valid))
    noise = torch.where(batch.valid, 0.0, 100.0).unsqueeze(-1)
    terms, nets = [], []
    for rows in (batch, batch.having(obs=batch.obs + noise, terminated=~batch.valid)):
        agent = agent_of(loss)
        terms.append(seen(loss, agent, rows).by_group[REWARD])
        nets.append(agent.nets[REWARD])
    assert torch.equal(*terms) and nets[0].steps == 1
    assert all(map(torch.equal, nets[0].buffers(), nets[1].buffers()))


@pytest.mark.parametrize("ends", [False, True])
def test_trex_reward_has_unit_spread_and_zero_mean_unless_episodes_terminated(ends):
    loss = TREX("data", hidden=[8])
    agent, batch = agent_of(loss), pairs(VECTOR, TWO, 1, count=64)
    batch = batch.having(terminated=batch.terminated & ends)
    for _ in range(3):
        seen(loss, agent, batch)
    net = agent.nets[REWARD]
    raw = rewards(net, batch.obs)[batch.valid.numpy()]
    found = net(batch)[batch.valid].detach().numpy()
    assert found.std() == pytest.approx(1, rel=1e-4)
    assert found.mean() == pytest.approx(raw.mean() / raw.std() if ends else 0, abs=1e-4)


def test_bounded_trex_reward_is_the_tanh():
    batch = pairs(VECTOR, TWO, 1)
    answers = []
    for bounded in (False, True):
        loss = TREX("data", hidden=[8], bounded=bounded)
        agent = agent_of(loss)
        seen(loss, agent, batch)
        answers.append(agent.nets[REWARD](batch))
    assert torch.equal(answers[0].tanh(), answers[1])


def test_trex_statistics_change_in_steps_and_not_in_validation():
    loss = TREX("data", hidden=[8])
    learner = Learner([agent_of(loss)], Algo(composed.reward_model(), {"trex": loss}), 0, torch.device("cpu"))
    net, batches = learner.agent.nets[REWARD], {"data": pairs(VECTOR, TWO, 1)}
    updates = learner.evaluate(["trex"], batches, learner.rng)["trex"].updates
    assert net.steps == 0 and net.mean == 0
    learner.step(batches, ["trex"])
    assert net.steps == 1
    assert all(torch.equal(net.get_buffer(name.removeprefix("nets.reward.")), updates[name]) for name in updates)


@pytest.mark.parametrize("inputs", list(Inputs))
def test_trex_needs_only_the_columns_of_its_inputs(inputs):
    loss = TREX("data", inputs=inputs, hidden=[8])
    agent = built(composed.reward_model(), spaces(VECTOR, BOX), loss)
    (_, needs) = loss.slots[""]
    whole = pairs(VECTOR, BOX, 1)
    out = answer(loss, agent, Batch(**{name: getattr(whole, name) for name in needs}))
    assert torch.isfinite(out.by_group[REWARD])
    assert {"action", "next_obs"} & set(needs) == {inputs.value.removeprefix("obs_")} - {"obs"}


def test_trex_with_negative_l1_is_refused():
    with pytest.raises(UserError, match="^l1: expected 0 or more, got -1"):
        TREX("data", l1=-1)
