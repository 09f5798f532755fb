"""ReBRAC against its equations in numpy, with the draws given."""

import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents.distributions import Distribution
from lfd.algos.rebrac import ReBRACActor, ReBRACCritic
from lfd.errors import UserError
from lfd.rng import ReplayedRng
from tests import composed
from tests.algos.cases import BATCH, BOX, VECTOR, answer, boxed, by_hand, float64, spaces

ROWS = boxed(BATCH)
NORMAL = torch.randn(8, 3, generator=torch.Generator().manual_seed(3)) * 4


def new_agent():
    agent = composed.deterministic_policy_critic([8, 8], layer_norm=True).build(spaces(VECTOR, BOX))
    agent.add_target_networks(["policy", "critic"])
    with torch.no_grad():
        for parameter in agent.targets.parameters():
            parameter.mul_(1.3)
    return agent


def test_rebrac_target_is_lowered_by_the_distance_to_the_datas_next_action():
    agent = new_agent()
    following = np.tanh(by_hand(agent.targets["policy"].net, float64(ROWS.next_obs)))
    following = np.clip(following + np.clip(0.2 * float64(NORMAL), -0.5, 0.5), -1, 1)
    slow = [by_hand(net, float64(ROWS.next_obs), following)[:, 0] for net in agent.targets["critic"].nets]
    distance = ((following - float64(ROWS.next_action)) ** 2).sum(-1)  # summed over dimensions, not averaged
    target = float64(ROWS.reward) + float64(ROWS.discount) * (np.minimum(*slow) - 0.5 * distance)
    values = [by_hand(net, float64(ROWS.obs), float64(ROWS.action))[:, 0] for net in agent.nets["critic"].nets]
    expected = sum(np.mean((value - target) ** 2) for value in values)
    out = answer(ReBRACCritic("data", critic_bc_coef=0.5), agent, ROWS, ReplayedRng([NORMAL]))
    assert out.by_group["critic"].item() == pytest.approx(expected, rel=1e-4)
    assert out.metrics.bc_penalty.item() == pytest.approx(distance.mean(), rel=1e-5)


def test_rebrac_actor_maximizes_the_smallest_critic_near_the_data():
    agent = new_agent()
    action = np.tanh(by_hand(agent.nets["policy"].net, float64(ROWS.obs)))
    values = np.minimum(*(by_hand(net, float64(ROWS.obs), action)[:, 0] for net in agent.nets["critic"].nets))
    distance = ((action - float64(ROWS.action)) ** 2).sum(-1).mean()
    expected = 0.3 * distance - values.mean() / np.abs(values).mean()
    out = answer(ReBRACActor("data", actor_bc_coef=0.3), agent, ROWS)
    assert out.by_group["policy"].item() == pytest.approx(expected, rel=1e-4)


def test_rebrac_value_scale_is_a_constant():
    agent = new_agent()
    parameters = list(agent.nets["policy"].parameters())
    values = agent.q(ROWS.obs, agent.policy(ROWS.obs, Distribution).mode()).amin(-1)
    expected = torch.autograd.grad(-values.mean() / values.abs().mean().item(), parameters)
    term = answer(ReBRACActor("data", actor_bc_coef=0.0), agent, ROWS).by_group["policy"]
    for got, wanted in zip(torch.autograd.grad(term, parameters), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_layer_norm_is_in_the_critics_only():
    agent = new_agent()
    norms = {name: sum(isinstance(part, nn.LayerNorm) for part in net.modules()) for name, net in agent.nets.items()}
    assert norms == {"policy": 0, "critic": 4}


@pytest.mark.parametrize(("loss", "name"), [(ReBRACActor, "actor_bc_coef"), (ReBRACCritic, "critic_bc_coef")])
def test_rebrac_with_a_negative_penalty_is_refused(loss, name):
    with pytest.raises(UserError, match=f"^{name}: expected 0 or more, got -1.0$"):
        loss("data", **{name: -1.0})
