"""Implicit Q-learning against its equations, row by row in float64, and what must not leak into what."""

import math

import numpy as np
import pytest
import torch

from lfd.agents.policy_critic import PolicyCritic
from lfd.algos.iql import IQL
from lfd.errors import Refused
from tests.algos.cases import BATCH, BOX, TWO, VECTOR, answer, boxed, by_hand, float64, gradients, spaces, stirred

BOTH = pytest.mark.parametrize("continuous", [False, True])


def case(loss, continuous):
    agent = PolicyCritic([8]).build(spaces(VECTOR, BOX if continuous else TWO))
    agent.add(loss.modules(agent))
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
def test_terms_row_by_row(continuous):
    loss = IQL("data", expectile=0.8, temperature=0.5, max_weight=1.1)
    agent, batch = case(loss, continuous)
    with torch.no_grad():
        agent.nets["value"].head[-1].bias.sub_(1.0)  # so that values stand on both sides of their targets
    slow = values_of(agent.targets["critic"], batch, continuous)
    fast = values_of(agent.nets["critic"], batch, continuous)
    here, there = (by_hand(agent.nets["value"], float64(obs))[:, 0] for obs in (batch.obs, batch.next_obs))
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
    terms = {name: term.item() * len(here) for name, term in answer(loss, agent, batch).terms.items()}
    assert terms == pytest.approx({"value": value, "critic": critic, "policy": policy}, rel=1e-5)


@BOTH
def test_the_weights_of_cloning_are_constants(continuous):
    agent, batch = case(IQL("data"), continuous)
    term = answer(IQL("data"), agent, batch).terms["policy"]
    for name in ("critic", "value"):
        assert not any(gradient.any() for gradient in gradients(term, agent.nets[name]))


def test_critics_bootstrap_from_the_state_value_alone():
    """Neither the slow critics nor the policy have a say at s': no action outside the data is asked about."""
    loss = IQL("data")
    agent, batch = case(loss, True)
    before = answer(loss, agent, batch).terms["critic"].item()
    with torch.no_grad():
        for module in (agent.targets["critic"], agent.nets["policy"]):
            for parameter in module.parameters():
                parameter.add_(1.0)
    assert answer(loss, agent, batch).terms["critic"].item() == before
    with torch.no_grad():
        agent.nets["value"].head[-1].bias.add_(1.0)
    term = answer(loss, agent, batch).terms["critic"]
    assert term.item() != before
    assert not any(gradient.any() for gradient in gradients(term, agent.nets["value"]))


def test_a_termination_is_not_bootstrapped():
    loss = IQL("data")
    agent, batch = case(loss, True)
    ended = batch.having(discount=torch.zeros(len(batch.action)))
    elsewhere = ended.having(next_obs=batch.next_obs + 100.0)
    assert torch.equal(answer(loss, agent, ended).terms["critic"], answer(loss, agent, elsewhere).terms["critic"])


def test_a_high_expectile_pulls_the_value_up_harder_than_down():
    agent, batch = case(IQL("data"), True)
    bias = {}
    for level in (0.1, 0.5, 0.9):
        term = answer(IQL("data", expectile=level), agent, batch).terms["value"]
        bias[level] = gradients(term, agent.nets["value"])[-1].item()
    assert bias[0.9] < bias[0.5] < bias[0.1]  # descent moves against the gradient


def test_a_huge_advantage_counts_no_more_than_the_clip():
    agent, batch = case(IQL("data"), True)
    with torch.no_grad():
        for net in agent.targets["critic"].nets:
            net.head[-1].bias.add_(1e6)
    term = answer(IQL("data"), agent, batch).terms["policy"]
    assert term.item() == pytest.approx(-100 * log_probs(agent, batch, True).mean(), rel=1e-5)


@pytest.mark.parametrize("wrong", [{"expectile": 1.0}, {"temperature": 0.0}, {"max_weight": -1.0}])
def test_ranges(wrong):
    with pytest.raises(Refused, match="above 0"):
        IQL("data", **wrong)
