"""TD3 against its equations in numpy, with the draws given."""

import numpy as np
import pytest
import torch

from lfd.algos.td3 import TD3Actor, TD3Critic
from lfd.errors import UserError
from lfd.rng import ReplayedRng
from tests import composed
from tests.algos.cases import BATCH, BOX, VECTOR, answer, boxed, by_hand, float64, spaces

ROWS = boxed(BATCH)
# Some draws are so large that the noise and the action are clipped.
NORMAL = torch.randn(8, 3, generator=torch.Generator().manual_seed(3)) * 4


def new_agent():
    agent = composed.deterministic_policy_critic([8]).build(spaces(VECTOR, BOX))
    agent.add_target_networks(["policy", "critic"])
    with torch.no_grad():
        for parameter in agent.targets.parameters():
            parameter.mul_(1.3)
    return agent


def target_by_hand(agent):
    following = np.tanh(by_hand(agent.targets["policy"].net, float64(ROWS.next_obs)))
    following = np.clip(following + np.clip(0.2 * float64(NORMAL), -0.5, 0.5), -1, 1)
    values = [by_hand(net, float64(ROWS.next_obs), following)[:, 0] for net in agent.targets["critic"].nets]
    return float64(ROWS.reward) + float64(ROWS.discount) * np.minimum(*values)


def test_td3_target_is_the_smallest_target_critic_at_the_smoothed_target_policy():
    agent = new_agent()
    out = answer(TD3Critic("data"), agent, ROWS, ReplayedRng([NORMAL]))
    values = [by_hand(net, float64(ROWS.obs), float64(ROWS.action))[:, 0] for net in agent.nets["critic"].nets]
    expected = sum(np.mean((value - target_by_hand(agent)) ** 2) for value in values)
    assert out.by_group["critic"].item() == pytest.approx(expected, rel=1e-5)


def test_termination_stops_the_bootstrap_and_truncation_does_not():
    agent = new_agent()
    ended = ROWS.having(discount=torch.zeros(8), truncated=torch.ones(8, dtype=torch.bool))
    cut = ROWS.having(discount=torch.full((8,), 0.99), truncated=torch.ones(8, dtype=torch.bool))
    q = [by_hand(net, float64(ROWS.obs), float64(ROWS.action))[:, 0] for net in agent.nets["critic"].nets]
    without = sum(np.mean((value - float64(ROWS.reward)) ** 2) for value in q)
    assert answer(TD3Critic("data"), agent, ended, ReplayedRng([NORMAL])).by_group["critic"].item() == pytest.approx(
        without, rel=1e-5
    )
    assert answer(TD3Critic("data"), agent, cut, ReplayedRng([NORMAL])).by_group["critic"].item() != pytest.approx(
        without, rel=1e-3
    )


def test_td3_actor_maximizes_the_first_critic():
    agent = new_agent()
    out = answer(TD3Actor("data"), agent, ROWS)
    action = np.tanh(by_hand(agent.nets["policy"].net, float64(ROWS.obs)))
    first = by_hand(agent.nets["critic"].nets[0], float64(ROWS.obs), action)
    assert out.by_group["policy"].item() == pytest.approx(-first.mean(), rel=1e-5)


def test_td3_with_negative_noise_is_refused():
    with pytest.raises(UserError, match="^noise: expected 0 or more, got -0.1$"):
        TD3Critic("data", noise=-0.1)
