"""TD3+BC's policy against its equation in numpy."""

import numpy as np
import pytest
import torch

from lfd.agents.distributions import Distribution
from lfd.algos.td3_bc import TD3BCActor
from lfd.errors import UserError
from tests import composed
from tests.algos.cases import BATCH, BOX, VECTOR, answer, boxed, by_hand, float64, spaces

ROWS = boxed(BATCH)


def new_agent():
    return composed.deterministic_policy_critic([8]).build(spaces(VECTOR, BOX))


def by_equation(agent):
    """Policy's actions [B, A] and their values [B] by the first critic."""
    action = np.tanh(by_hand(agent.nets["policy"].net, float64(ROWS.obs)))
    return action, by_hand(agent.nets["critic"].nets[0], float64(ROWS.obs), action)[:, 0]


def test_td3_bc_actor_loss_equals_its_equation():
    agent = new_agent()
    action, value = by_equation(agent)
    # The square is averaged over 8 rows and 3 dimensions alike.
    expected = ((action - float64(ROWS.action)) ** 2).sum() / 24 - 2.5 * value.mean() / np.abs(value).mean()
    assert answer(TD3BCActor("data"), agent, ROWS).by_group["policy"].item() == pytest.approx(expected, rel=1e-4)


def gradient(loss, agent, rows=ROWS):
    term = answer(loss, agent, rows).by_group["policy"]
    return torch.cat([part.flatten() for part in torch.autograd.grad(term, list(agent.nets["policy"].parameters()))])


def test_td3_bc_lambda_is_a_constant():
    agent = new_agent()
    _, value = by_equation(agent)
    cloning = gradient(TD3BCActor("data", alpha=0.0), agent)
    action = agent.policy(ROWS.obs, Distribution).mode()
    climbed = torch.autograd.grad(agent.q(ROWS.obs, action)[:, 0].mean(), list(agent.nets["policy"].parameters()))
    expected = cloning - 2.5 / np.abs(value).mean() * torch.cat([part.flatten() for part in climbed])
    torch.testing.assert_close(gradient(TD3BCActor("data"), agent), expected.float(), rtol=1e-4, atol=1e-6)


def test_td3_bc_does_not_depend_on_the_scale_of_values():
    agent, scaled = new_agent(), new_agent()
    with torch.no_grad():
        for net in scaled.nets["critic"].nets:
            for parameter in net.head[-1].parameters():
                parameter.mul_(1000)
    torch.testing.assert_close(gradient(TD3BCActor("data"), agent), gradient(TD3BCActor("data"), scaled))


def test_td3_bc_with_alpha_0_is_bc():
    agent = new_agent()
    done = ROWS.having(action=agent.policy(ROWS.obs, Distribution).mode().detach())
    assert gradient(TD3BCActor("data", alpha=0.0), agent, done).abs().max() == 0


def test_td3_bc_with_negative_alpha_is_refused():
    with pytest.raises(UserError, match="^alpha: expected 0 or more, got -"):
        TD3BCActor("data", alpha=-1.0)
