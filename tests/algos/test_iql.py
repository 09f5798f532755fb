"""Implicit Q-learning against its equations, row by row in float64, and what must not leak into what."""

import math

import numpy as np
import pytest
import torch

from lfd.algos.iql import IQL
from lfd.errors import UserError
from tests import composed
from tests.algos.cases import (
    BATCH,
    BOX,
    TWO,
    VECTOR,
    answer,
    boxed,
    built,
    by_hand,
    float64,
    gradients,
    spaces,
    stirred,
)

BOTH = pytest.mark.parametrize("continuous", [False, True])


def case(loss, continuous):
    agent = built(composed.policy_critic_value([8]), spaces(VECTOR, BOX if continuous else TWO), loss)
    return stirred(agent, ["critic"]), boxed(BATCH) if continuous else BATCH


def values_of(critics, batch, continuous):
    """[B, critics] of the actions taken, in float64 numpy."""
    obs = float64(batch.obs)
    if continuous:
        return np.concatenate([by_hand(net, obs, float64(batch.action)) for net in critics.nets], -1)
    tables = [by_hand(net, obs) for net in critics.nets]
    return np.array([[table[row, a] for table in tables] for row, a in enumerate(batch.action.tolist())])


def log_probs(agent, batch, continuous):
    outputs = torch.from_numpy(by_hand(agent.nets["policy"].net, float64(batch.obs)))
    if continuous:
        std = agent.nets["policy"].log_std.detach().double().exp()
        return torch.distributions.Normal(outputs.tanh(), std).log_prob(batch.action.double()).sum(-1).numpy()
    return torch.distributions.Categorical(logits=outputs).log_prob(batch.action).numpy()


@BOTH
def test_iql_terms_row_by_row(continuous):
    loss = IQL("data", expectile=0.8, beta=2.0, exp_adv_max=1.1)
    agent, batch = case(loss, continuous)
    with torch.no_grad():
        agent.nets["value"].net.head[-1].bias.sub_(1.0)  # so that values stand on both sides of their targets
    slow = values_of(agent.targets["critic"], batch, continuous)
    fast = values_of(agent.nets["critic"], batch, continuous)
    here, there = (by_hand(agent.nets["value"].net, float64(obs))[:, 0] for obs in (batch.obs, batch.next_obs))
    log_prob = log_probs(agent, batch, continuous)
    value, critic, policy, weights = 0.0, 0.0, 0.0, []
    for row in range(len(here)):
        above = min(slow[row]) - here[row]
        value += (0.8 if above > 0 else 0.2) * above**2
        target = float(batch.reward[row]) + float(batch.discount[row]) * there[row]
        critic += sum((q - target) ** 2 for q in fast[row])
        weights.append(min(math.exp(2 * above), 1.1))
        policy -= weights[-1] * log_prob[row]
    assert 1.1 in weights and min(weights) < 1  # both sides of the clip, and of the value, are tried
    terms = {name: term.item() * len(here) for name, term in answer(loss, agent, batch).by_group.items()}
    assert terms == pytest.approx({"value": value, "critic": critic, "policy": policy}, rel=1e-5)


@BOTH
def test_advantage_weights_are_constants(continuous):
    agent, batch = case(IQL("data"), continuous)
    term = answer(IQL("data"), agent, batch).by_group["policy"]
    for name in ("critic", "value"):
        assert not any(gradient.any() for gradient in gradients(term, agent.nets[name]))


def test_iql_critics_bootstrap_from_the_state_value_only():
    """Neither the slow critics nor the policy have a say at s': no action outside the data is asked about."""
    loss = IQL("data")
    agent, batch = case(loss, True)
    before = answer(loss, agent, batch).by_group["critic"].item()
    with torch.no_grad():
        for module in (agent.targets["critic"], agent.nets["policy"]):
            for parameter in module.parameters():
                parameter.add_(1.0)
    assert answer(loss, agent, batch).by_group["critic"].item() == before
    with torch.no_grad():
        agent.nets["value"].net.head[-1].bias.add_(1.0)
    term = answer(loss, agent, batch).by_group["critic"]
    assert term.item() != before
    assert not any(gradient.any() for gradient in gradients(term, agent.nets["value"]))


def test_termination_is_not_bootstrapped():
    loss = IQL("data")
    agent, batch = case(loss, True)
    ended = batch.having(discount=torch.zeros(len(batch.action)))
    elsewhere = ended.having(next_obs=batch.next_obs + 100.0)
    assert torch.equal(answer(loss, agent, ended).by_group["critic"], answer(loss, agent, elsewhere).by_group["critic"])


def test_high_expectile_raises_the_value_more_than_it_lowers_it():
    agent, batch = case(IQL("data"), True)
    bias = {}
    for level in (0.1, 0.5, 0.9):
        term = answer(IQL("data", expectile=level), agent, batch).by_group["value"]
        bias[level] = gradients(term, agent.nets["value"])[-1].item()
    assert bias[0.9] < bias[0.5] < bias[0.1]  # descent moves against the gradient


def test_huge_advantage_is_clipped_to_exp_adv_max():
    agent, batch = case(IQL("data"), True)
    with torch.no_grad():
        for net in agent.targets["critic"].nets:
            net.head[-1].bias.add_(1e6)
    term = answer(IQL("data"), agent, batch).by_group["policy"]
    assert term.item() == pytest.approx(-100 * log_probs(agent, batch, True).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"expectile": 1.0}, r"expectile: expected a number in \(0, 1\), got 1.0"),
        ({"beta": 0.0}, "beta: expected a number above 0, got 0.0"),
        ({"exp_adv_max": -1.0}, "exp_adv_max: expected a number above 0, got -1.0"),
    ],
)
def test_iql_with_a_wrong_value_is_refused_by_its_key(wrong, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        IQL("data", **wrong)
