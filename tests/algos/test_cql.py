"""The conservative gap against its equation, with densities and signs checked."""

import math

import pytest
import torch

from lfd.agents.actor_critic import SoftPolicyCritic
from lfd.agents.q import QNet
from lfd.algos.cql import ConservativeContinuous, ConservativeDiscrete
from lfd.noise import Generated, Sketched, Taped
from tests.algos.cases import BATCH, BOX, TWO, VECTOR, answer, boxed, spaces
from tests.algos.test_sac import squashed


def test_discrete_gap_row_by_row():
    agent = QNet([8]).build(spaces(VECTOR, TWO))
    values = agent.q(BATCH.obs).detach().double()
    rows = [torch.logsumexp(row, 0).item() - row[a].item() for row, a in zip(values, BATCH.action, strict=True)]
    out = answer(ConservativeDiscrete("data"), agent, BATCH)
    assert out.terms["q"].item() == pytest.approx(sum(rows) / len(rows), rel=1e-5)


def drawn(loss, agent, batch):
    sketch, generator = Sketched(), Generated(3)
    answer(loss, agent, batch, sketch)
    return [generator.draw(kind, shape) for kind, shape in sketch.asked]


def test_continuous_gap_over_all_samples_with_their_densities():
    batch, samples = boxed(BATCH), 3
    agent = SoftPolicyCritic([8]).build(spaces(VECTOR, BOX))
    loss = ConservativeContinuous("data", samples=samples)
    draws = drawn(loss, agent, batch)
    out = answer(loss, agent, batch, Taped(draws))
    uniform, here_noise, there_noise = draws
    total = 0.0
    for critic in range(2):
        for row in range(len(batch.action)):
            exponents = []
            for k in range(samples):
                here, log_here = squashed(agent, batch.obs[row : row + 1], here_noise[k, row : row + 1])
                there, log_there = squashed(agent, batch.next_obs[row : row + 1], there_noise[k, row : row + 1])
                for action, log_density in (
                    (2 * uniform[k, row : row + 1] - 1, -3 * math.log(2)),  # 1 / volume of [-1, 1]^3
                    (here, log_here.item()),
                    (there, log_there.item()),
                ):
                    # valued at s, also those that were proposed at s'
                    value = agent.nets["critic"](batch.obs[row : row + 1], action.float())[0, critic].item()
                    exponents.append(value - log_density)
            data = agent.nets["critic"](batch.obs[row : row + 1], batch.action[row : row + 1])[0, critic].item()
            total += (math.log(sum(map(math.exp, exponents))) - data) / len(batch.action)
    assert out.terms["critic"].item() == pytest.approx(total, rel=1e-4)


def test_uniform_proposals_cover_the_whole_box():
    batch = boxed(BATCH)
    agent = SoftPolicyCritic([8]).build(spaces(VECTOR, BOX))
    loss = ConservativeContinuous("data", samples=200)
    seen = []
    agent.q = lambda obs, action: seen.append(action) or torch.zeros(*action.shape[:-1], 2)
    answer(loss, agent, batch, Generated(0))
    proposed = seen[0][:200].flatten()
    assert proposed.min() < -0.99 and proposed.max() > 0.99 and abs(proposed.mean()) < 0.05


@pytest.mark.parametrize(("target", "rises"), [(0.0, True), (1e4, False)])
def test_the_multiplier_rises_while_the_gap_exceeds_its_target(target, rises):
    agent = SoftPolicyCritic([8]).build(spaces(VECTOR, BOX))
    loss = ConservativeContinuous("data", samples=3, target_gap=target)
    agent.add(loss.modules(agent))
    out = answer(loss, agent, boxed(BATCH))
    (gradient,) = torch.autograd.grad(out.terms["multiplier"], list(agent.nets["multiplier"].parameters()))
    assert (gradient.item() < 0) is rises  # descent moves against the gradient
