"""Expected temporal-difference learning against its equation in float64, for both action spaces."""

import numpy as np
import pytest
import torch

from lfd.agents.config import AgentConfig
from lfd.agents.nets import Head, PolicySpec, QEnsembleSpec, StateValueSpec
from lfd.algos.td import TD
from lfd.rng import ReplayedRng
from tests import composed
from tests.algos.cases import BATCH, BOX, TWO, VECTOR, answer, boxed, by_hand, drawn, float64, spaces, stir, stirred
from tests.algos.test_sac import critics, squashed


def policy_and_critics(critics, head=Head.tanh_gaussian):
    """The agent of PPO with an ensemble of critics."""
    nets = {"policy": PolicySpec(head=head), "critic": QEnsembleSpec(critics=critics)}
    return AgentConfig(nets, hidden=[8])


def test_td_of_discrete_actions_is_expected_over_the_policy():
    agent = stirred(policy_and_critics(2).build(spaces(VECTOR, TWO)), ["critic"])
    stir(agent.nets["policy"], 2)  # a policy that is nearly uniform would hide which action is weighted
    logits = by_hand(agent.nets["policy"].net, float64(BATCH.next_obs))
    odds = np.exp(logits)
    slow = np.stack([by_hand(net, float64(BATCH.next_obs)) for net in agent.targets["critic"].nets])  # [critics, B, A]
    following = (odds / odds.sum(-1, keepdims=True) * slow.min(0)).sum(-1)
    target = float64(BATCH.reward) + float64(BATCH.discount) * following
    rows = np.arange(len(BATCH.action))
    q = [by_hand(net, float64(BATCH.obs))[rows, BATCH.action] for net in agent.nets["critic"].nets]
    out = answer(TD("data"), agent, BATCH)
    assert set(out.by_group) == {"critic"}
    assert out.by_group["critic"].item() == pytest.approx(sum(((x - target) ** 2).mean() for x in q), rel=1e-5)
    assert out.metrics.q_mean.item() == pytest.approx(np.mean(q), rel=1e-5)


def test_td_of_continuous_actions_samples_the_policy():
    batch, loss = boxed(BATCH), TD("data")
    agent = stirred(composed.soft_policy_critic([8]).build(spaces(VECTOR, BOX)), ["critic"])
    draws = drawn(loss, agent, batch)
    out = answer(loss, agent, batch, ReplayedRng(draws))
    assert len(draws) == 1
    following, _ = squashed(agent, batch.next_obs, draws[0])
    slow = critics(agent.targets["critic"], batch.next_obs, following).amin(-1)
    target = (batch.reward.double() + batch.discount.double() * slow).detach()
    q = critics(agent.nets["critic"], batch.obs, batch.action)
    term = sum(((q[:, i] - target) ** 2).mean() for i in range(2))
    assert out.by_group["critic"].item() == pytest.approx(term.item(), rel=1e-5)


def test_td_values_actions_of_an_unbounded_policy_as_the_environment_takes_them():
    """PPO's Gaussian samples beyond the bounds, where the environment clips."""
    batch, loss = boxed(BATCH), TD("data")
    agent = stirred(policy_and_critics(1, Head.gaussian).build(spaces(VECTOR, BOX)), ["critic"])
    draws = [torch.full_like(drawn(loss, agent, batch)[0], size) for size in (50.0, 5_000.0)]
    terms = [answer(loss, agent, batch, ReplayedRng([draw])).by_group["critic"] for draw in draws]
    assert torch.equal(*terms)
    bound = critics(agent.targets["critic"], batch.next_obs, torch.ones_like(batch.action))[:, 0]
    target = (batch.reward.double() + batch.discount.double() * bound).detach()
    q = critics(agent.nets["critic"], batch.obs, batch.action)[:, 0]
    assert terms[0].item() == pytest.approx(((q - target) ** 2).mean().item(), rel=1e-5)


def test_td_does_not_bootstrap_from_terminations():
    agent = stirred(policy_and_critics(2).build(spaces(VECTOR, TWO)), ["critic"])
    ended = BATCH.having(discount=torch.zeros(len(BATCH.action)))
    terms = [
        answer(TD("data"), agent, rows).by_group["critic"]
        for rows in (ended, ended.having(next_obs=BATCH.next_obs + 100))
    ]
    assert torch.equal(*terms)


def test_td_of_a_fixed_policy_converges_to_its_values():
    """One state and reward 1 for action 0: Q(a) = 1{a = 0} + gamma * pi(0) / (1 - gamma)."""
    torch.manual_seed(0)
    agent = policy_and_critics(1).with_nets({"value": StateValueSpec()}).build(spaces(VECTOR, TWO))
    agent.add_target_networks(["critic"])
    state = torch.ones(8, 4)
    action = torch.tensor([0, 1] * 4)
    rows = BATCH.having(
        obs=state, next_obs=state, action=action, reward=(action == 0).float(), discount=torch.full((8,), 0.5)
    )
    optimizer = torch.optim.Adam(agent.nets["critic"].parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        answer(TD("data"), agent, rows).by_group["critic"].backward()
        optimizer.step()
        agent.targets["critic"].load_state_dict(agent.nets["critic"].state_dict())
    probability = agent.policy(state[:1]).logits.softmax(-1)[0, 0].item()
    expected = [1 + 0.5 * probability / 0.5, 0.5 * probability / 0.5]
    assert agent.q_all(state[:1])[0, 0].tolist() == pytest.approx(expected, abs=1e-2)
