"""Soft actor-critic against its equations, with the draws given."""

import math

import numpy as np
import pytest
import torch

from lfd.algos.sac import SAC
from lfd.rng import ReplayedRng
from tests import composed
from tests.algos.cases import BATCH, BOX, VECTOR, answer, boxed, built, by_hand, drawn, float64, spaces


def squashed(agent, obs, noise):
    """An action in [-1, 1] and its density, by the change of variables in float64."""
    mean, log_std = torch.from_numpy(by_hand(agent.nets["policy"].net, float64(obs))).chunk(2, -1)
    u = mean + log_std.clamp(-5, 2).exp() * noise.double()
    density = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp()).log_prob(u)
    return u.tanh(), (density - torch.log(1 - u.tanh() ** 2)).sum(-1)


def critics(module, obs, action):
    """[B, critics] in float64."""
    values = [by_hand(net, float64(obs), float64(action)) for net in module.nets]
    return torch.from_numpy(np.concatenate(values, -1))


@pytest.mark.parametrize("entropy_backup", [True, False])
def test_sac_terms_equal_their_equations(entropy_backup):
    batch = boxed(BATCH)
    loss = SAC("data", entropy_backup=entropy_backup)
    agent = built(composed.soft_policy_critic([8]), spaces(VECTOR, BOX), loss, targets=["critic"])
    with torch.no_grad():
        agent.nets["temperature"].value.fill_(-0.7)
        for parameter in agent.targets.parameters():
            parameter.mul_(1.3)
    draws = drawn(loss, agent, batch)
    out = answer(loss, agent, batch, ReplayedRng(draws))
    alpha = math.exp(-0.7)
    following, log_following = squashed(agent, batch.next_obs, draws[0])
    value = critics(agent.targets["critic"], batch.next_obs, following).amin(-1)
    value = value - alpha * log_following if entropy_backup else value
    target = (batch.reward.double() + batch.discount.double() * value).detach()
    q = critics(agent.nets["critic"], batch.obs, batch.action)
    td = sum(((q[:, i] - target) ** 2).mean() for i in range(2))
    action, log_prob = squashed(agent, batch.obs, draws[1])
    policy = (alpha * log_prob - critics(agent.nets["critic"], batch.obs, action).amin(-1)).mean()
    temperature = -(-0.7 * (log_prob - 3)).mean()  # three action dimensions: a target entropy of -3
    assert out.by_group["critic"].item() == pytest.approx(td.item(), rel=1e-5)
    assert out.by_group["policy"].item() == pytest.approx(policy.item(), rel=1e-5)
    assert out.by_group["temperature"].item() == pytest.approx(temperature.item(), rel=1e-5)


def test_sac_temperature_rises_below_the_target_entropy():
    loss = SAC("data", target_entropy=10.0)  # no policy is as random as that
    agent = built(composed.soft_policy_critic([8]), spaces(VECTOR, BOX), loss, targets=["critic"])
    term = answer(loss, agent, boxed(BATCH)).by_group["temperature"]
    (gradient,) = torch.autograd.grad(term, list(agent.nets["temperature"].parameters()))
    assert gradient.item() < 0  # descent raises it
