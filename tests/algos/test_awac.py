"""Advantage-weighted actor-critic against its equations, with the draws given."""

import math

import numpy as np
import pytest
import torch

from lfd.algos.awac import AWAC
from lfd.errors import UserError
from lfd.rng import ReplayedRng
from tests import composed
from tests.algos.cases import (
    BATCH,
    BOX,
    TWO,
    VECTOR,
    answer,
    boxed,
    by_hand,
    drawn,
    float64,
    gradients,
    spaces,
    stirred,
)


@pytest.fixture
def agent():
    return stirred(composed.policy_critic([8]).build(spaces(VECTOR, BOX)), ["critic"])


def policy_of(agent, obs):
    mean = torch.from_numpy(by_hand(agent.nets["policy"].net, float64(obs))).tanh()
    return torch.distributions.Normal(mean, agent.nets["policy"].log_std.detach().double().exp())


def least(critics, obs, action):
    """Of both critics, [B] in float64."""
    both = [by_hand(net, float64(obs), float64(action))[:, 0] for net in critics.nets]
    return torch.from_numpy(np.minimum(*both))


def test_awac_terms_equal_their_equations(agent):
    batch, loss = boxed(BATCH), AWAC("data", lam=0.2, exp_adv_max=2.0)
    draws = drawn(loss, agent, batch)
    out = answer(loss, agent, batch, ReplayedRng(draws))
    there, here = policy_of(agent, batch.next_obs), policy_of(agent, batch.obs)
    outside = there.mean + there.stddev * draws[0].double()
    assert (outside.abs() > 1).any()  # a Gaussian's draws leave the box, the critics' actions do not
    following = least(agent.targets["critic"], batch.next_obs, outside.clamp(-1, 1))
    own = (here.mean + here.stddev * draws[1].double()).clamp(-1, 1)
    advantage = least(agent.nets["critic"], batch.obs, batch.action) - least(agent.nets["critic"], batch.obs, own)
    log_prob = here.log_prob(batch.action.double()).sum(-1)
    critic, policy, weights = 0.0, 0.0, []
    for row in range(len(own)):
        target = float(batch.reward[row]) + float(batch.discount[row]) * following[row].item()
        for net in agent.nets["critic"].nets:
            value = by_hand(net, float64(batch.obs[row]), float64(batch.action[row])).item()
            critic += (value - target) ** 2 / len(own)
        weights.append(min(math.exp(advantage[row].item() / 0.2), 2.0))
        policy -= weights[-1] * log_prob[row].item() / len(own)
    assert 2.0 in weights and min(weights) < 2.0
    assert out.by_group["critic"].item() == pytest.approx(critic, rel=1e-5)
    assert out.by_group["policy"].item() == pytest.approx(policy, rel=1e-5)


def test_awac_terms_of_discrete_actions():
    agent = stirred(composed.policy_critic([8]).build(spaces(VECTOR, TWO)), ["critic"])
    batch = BATCH.having(action=BATCH.action.roll(1))  # as they come they are what the policy draws
    loss = AWAC("data", lam=0.2, exp_adv_max=1.1)
    draws = drawn(loss, agent, batch)
    out = answer(loss, agent, batch, ReplayedRng(draws))
    rows = range(len(batch.action))

    def odds(obs):
        return np.exp(by_hand(agent.nets["policy"].net, float64(obs)))

    def tables(module, obs):
        return [by_hand(net, float64(obs)) for net in module.nets]

    def sampled(obs, uniform):
        """The action that comes first when each arrives at a rate of its odds."""
        return (-np.log(float64(uniform)) / odds(obs)).argmin(-1)

    following, own, given = sampled(batch.next_obs, draws[0]), sampled(batch.obs, draws[1]), batch.action.tolist()
    assert {0, 1} == set(following) == set(own) and len({(own[row], given[row]) for row in rows}) == 4
    fast, slow = tables(agent.nets["critic"], batch.obs), tables(agent.targets["critic"], batch.next_obs)
    share = odds(batch.obs)
    critic, policy, weights = 0.0, 0.0, []
    for row in rows:
        bootstrap = min(table[row, following[row]] for table in slow)
        target = float(batch.reward[row]) + float(batch.discount[row]) * bootstrap
        critic += sum((table[row, given[row]] - target) ** 2 for table in fast) / len(rows)
        advantage = min(table[row, given[row]] for table in fast) - min(table[row, own[row]] for table in fast)
        weights.append(min(math.exp(advantage / 0.2), 1.1))
        policy -= weights[-1] * math.log(share[row, given[row]] / share[row].sum()) / len(rows)
    assert 1.1 in weights and min(weights) < 1
    assert out.by_group["critic"].item() == pytest.approx(critic, rel=1e-5)
    assert out.by_group["policy"].item() == pytest.approx(policy, rel=1e-5)


def test_advantage_weights_are_constants(agent):
    """Neither the critics nor the policy's own action in the advantage are trained by the policy's term."""
    batch, loss = boxed(BATCH), AWAC("data")
    draws = drawn(loss, agent, batch)
    term = answer(loss, agent, batch, ReplayedRng(draws)).by_group["policy"]
    assert not any(gradient.any() for gradient in gradients(term, agent.nets["critic"]))
    here = policy_of(agent, batch.obs)
    own = (here.mean + here.stddev * draws[1].double()).clamp(-1, 1)
    advantage = least(agent.nets["critic"], batch.obs, batch.action) - least(agent.nets["critic"], batch.obs, own)
    weight = (advantage * 3).exp().clamp(max=100).float()
    cloning = -(weight * agent.policy(batch.obs).log_prob(batch.action)).mean()
    expected = gradients(cloning, agent.nets["policy"])
    for found, wanted in zip(gradients(term, agent.nets["policy"]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_termination_is_not_bootstrapped(agent):
    ended = boxed(BATCH).having(discount=torch.zeros(len(BATCH.action)))
    elsewhere = ended.having(next_obs=BATCH.next_obs + 100.0)
    loss = AWAC("data")
    assert torch.equal(answer(loss, agent, ended).by_group["critic"], answer(loss, agent, elsewhere).by_group["critic"])


@pytest.mark.parametrize("name", ["lam", "exp_adv_max"])
def test_awac_with_a_number_not_above_0_is_refused(name):
    with pytest.raises(UserError, match=f"^{name}: expected a number above 0, got 0.0$"):
        AWAC("data", **{name: 0.0})
