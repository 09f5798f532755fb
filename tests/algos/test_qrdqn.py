"""Quantile regression against its equation, pair by pair in float64."""

import numpy as np
import pytest
import torch

from lfd.algos.cql import CQLDiscrete
from lfd.algos.qrdqn import QRDQN
from tests import composed
from tests.algos.cases import BATCH, TWO, VECTOR, answer, spaces

NUMBER = 7


def made(scale: float = 1.0):
    """An agent whose target network differs from it."""
    agent = composed.quantile_net([8], quantiles=NUMBER).build(spaces(VECTOR, TWO))
    agent.add_target_networks(["critic"])
    with torch.no_grad():
        for parameter in agent.targets.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return agent


def tables(net, obs) -> np.ndarray:
    """[rows, quantiles, actions]"""
    return net(obs).detach().double().numpy()


@pytest.mark.parametrize("kappa", [1.0, 0.3])
def test_qrdqn_loss_pair_by_pair(kappa):
    agent = made()
    mine, slow = tables(agent.nets["critic"], BATCH.obs), tables(agent.targets["critic"], BATCH.next_obs)
    total = 0.0
    for row, action in enumerate(BATCH.action.tolist()):
        best = int(np.argmax([slow[row, :, a].mean() for a in range(2)]))
        for i in range(NUMBER):
            level = (2 * (i + 1) - 1) / (2 * NUMBER)
            for j in range(NUMBER):
                u = float(BATCH.reward[row]) + float(BATCH.discount[row]) * slow[row, j, best] - mine[row, i, action]
                huber = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
                total += abs(level - (u < 0)) * huber / kappa / NUMBER
    out = answer(QRDQN("data", kappa=kappa), agent, BATCH)
    assert out.by_group["critic"].item() == pytest.approx(total / len(BATCH.action), rel=1e-4)


def test_qrdqn_finds_the_quantiles_of_the_return():
    """A level on the wrong axis would pull all of them to the middle."""
    returns = torch.linspace(0, 10, 201)
    agent = made()
    bias = torch.zeros(NUMBER, requires_grad=True)
    agent.nets["critic"].forward = lambda obs, only=None: (
        bias.expand(len(returns), NUMBER).unsqueeze(-1).expand(-1, -1, 2)
    )
    batch = BATCH.having(
        obs=torch.zeros(201, 4), next_obs=torch.zeros(201, 4), action=torch.zeros(201, dtype=torch.long),
        reward=returns, discount=torch.zeros(201),
    )  # fmt: skip
    descent = torch.optim.SGD([bias], lr=2.0)
    for _ in range(500):
        descent.zero_grad()
        answer(QRDQN("data", kappa=0.1), agent, batch).by_group["critic"].backward()
        descent.step()
    levels = (torch.arange(NUMBER) + 0.5) / NUMBER
    torch.testing.assert_close(bias.detach(), 10 * levels, atol=0.15, rtol=0)


def test_termination_is_not_bootstrapped():
    agent = made()
    ended = BATCH.having(discount=torch.zeros(len(BATCH.action)))
    elsewhere = ended.having(next_obs=BATCH.next_obs + 100.0)
    assert torch.equal(
        answer(QRDQN("data"), agent, ended).by_group["critic"],
        answer(QRDQN("data"), agent, elsewhere).by_group["critic"],
    )


def test_importance_weights_scale_rows_and_priorities_are_errors():
    agent = made()
    weight = torch.zeros(len(BATCH.action))
    weight[2] = 4.0
    error = answer(QRDQN("data"), agent, BATCH).feedback["priority"]
    only = answer(QRDQN("data"), agent, BATCH.having(weight=weight))
    assert only.by_group["critic"].item() == pytest.approx(4.0 * error[2].item() / len(weight), rel=1e-5)


def test_qrdqn_acts_and_cql_applies_by_mean_quantiles():
    agent = made()
    means = tables(agent.nets["critic"], BATCH.obs).mean(1)
    assert agent.act(BATCH.obs, (), None)[0].tolist() == means.argmax(-1).tolist()
    gap = [np.log(np.exp(row).sum()) - row[a] for row, a in zip(means, BATCH.action.tolist(), strict=True)]
    out = answer(CQLDiscrete("data"), agent, BATCH)
    assert out.by_group["critic"].item() == pytest.approx(np.mean(gap), rel=1e-5)
