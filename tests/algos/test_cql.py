"""The conservative gap against its equation, with densities and signs checked."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.algos.cql import CQLContinuous, CQLDiscrete
from lfd.rng import GeneratorRng, ReplayedRng
from tests import composed
from tests.algos.cases import (
    BATCH,
    BOX,
    PICTURE,
    TWO,
    VECTOR,
    answer,
    batch,
    boxed,
    built,
    by_hand,
    drawn,
    float64,
    spaces,
)
from tests.algos.test_sac import critics, squashed


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_discrete_cql_gap_row_by_row(temperature):
    agent = composed.q_net([8]).build(spaces(VECTOR, TWO))
    values = by_hand(agent.nets["critic"].nets[0], float64(BATCH.obs))
    rows = [
        temperature * math.log(sum(math.exp(value / temperature) for value in row)) - row[a]
        for row, a in zip(values, BATCH.action.tolist(), strict=True)
    ]
    out = answer(CQLDiscrete("data", temperature=temperature), agent, BATCH)
    assert out.by_group["critic"].item() == pytest.approx(sum(rows) / len(rows), rel=1e-5)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_continuous_cql_gap_has_all_samples_with_their_densities(temperature, calibrated):
    batch, samples = boxed(BATCH), 3
    agent = composed.soft_policy_critic([8]).build(spaces(VECTOR, BOX))
    loss = CQLContinuous("data", samples=samples, temperature=temperature, calibrated=calibrated)
    draws = drawn(loss, agent, batch)
    out = answer(loss, agent, batch, ReplayedRng(draws))
    uniform, here_noise, there_noise = draws
    at_data = critics(agent.nets["critic"], batch.obs, batch.action)
    raised = 0
    total = 0.0
    for critic in range(2):
        for row in range(len(batch.action)):
            exponents = []
            for k in range(samples):
                here, log_here = squashed(agent, batch.obs[row : row + 1], here_noise[k, row : row + 1])
                there, log_there = squashed(agent, batch.next_obs[row : row + 1], there_noise[k, row : row + 1])
                for action, log_density, floor in (
                    (2 * uniform[k, row : row + 1] - 1, -3 * math.log(2), None),  # 1 / volume of [-1, 1]^3
                    (here, log_here.item(), batch.return_to_go[row].item()),
                    (there, log_there.item(), batch.return_to_go[row].item()),
                ):
                    # valued at s, also those that were proposed at s'
                    value = critics(agent.nets["critic"], batch.obs[row : row + 1], action)[0, critic].item()
                    if calibrated and floor is not None and value < floor:
                        value, raised = floor, raised + 1
                    exponents.append(value / temperature - log_density)
            gap = temperature * math.log(sum(map(math.exp, exponents))) - at_data[row, critic].item()
            total += gap / len(batch.action)
    assert (0 < raised < 2 * 2 * samples * len(batch.action)) is calibrated
    assert out.by_group["critic"].item() == pytest.approx(total, rel=1e-5)


def test_uniform_cql_samples_cover_the_whole_box():
    batch = boxed(BATCH)
    uneven = gym.spaces.Box(np.array([-1, 0, 2], np.float32), np.array([3, 1, 9], np.float32))
    agent = composed.soft_policy_critic([8]).build(spaces(VECTOR, uneven))
    loss = CQLContinuous("data", samples=200)
    seen = []
    agent.q = lambda obs, action: seen.append(action) or torch.zeros(*action.shape[:-1], 2)
    answer(loss, agent, batch, GeneratorRng(0))
    proposed = agent.to_space(seen[0][:200].flatten(0, 1))
    for size, low, high in zip(proposed.T, uneven.low.tolist(), uneven.high.tolist(), strict=True):
        assert low <= size.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < size.max() <= high
        assert size.mean().item() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


@pytest.mark.parametrize("observation", [VECTOR, PICTURE])
def test_cql_encodes_an_observation_once_for_all_samples(observation):
    rows = boxed(batch(observation, TWO, 1, size=8))
    agent = composed.soft_policy_critic([8]).build(spaces(observation, BOX))
    seen = []
    for net in agent.nets["critic"].nets:
        net.encoder.register_forward_hook(lambda module, inputs, features: seen.append(features.shape[:-1]))
    answer(CQLContinuous("data", samples=3), agent, rows)
    assert seen == [(8,)] * 4  # by two critics, for the sampled actions and for the data's


def test_calibrated_cql_does_not_push_values_below_the_data():
    """Where returns exceed every value, only uniform actions (and the data's) are left to move."""
    batch, samples = boxed(BATCH).having(return_to_go=torch.full((len(BATCH.action),), 1e3)), 3
    agent = composed.soft_policy_critic([8]).build(spaces(VECTOR, BOX))
    slopes = {}
    for calibrated in (False, True):
        kept = []
        found = type(agent).q
        agent.q = lambda obs, action, kept=kept, found=found: kept.append(found(agent, obs, action)) or kept[-1]
        out = answer(CQLContinuous("data", samples=samples, calibrated=calibrated), agent, batch)
        del agent.q
        (slopes[calibrated],) = torch.autograd.grad(out.by_group["critic"], kept[0])
    assert (slopes[False][samples:] > 0).all() and (slopes[True][samples:] == 0).all()


def test_cql_needs_returns_to_go_only_if_calibrated():
    plain, calibrated = CQLContinuous("data"), CQLContinuous("data", calibrated=True)
    assert "return_to_go" not in plain.slots[""][1] and "return_to_go" in calibrated.slots[""][1]


def test_cql_multiplier_weights_the_excess_of_the_gap():
    batch, samples = boxed(BATCH), 3
    agent = composed.soft_policy_critic([8]).build(spaces(VECTOR, BOX))
    plain = answer(CQLContinuous("data", samples=samples), agent, batch).by_group["critic"].item()
    loss = CQLContinuous("data", samples=samples, target_gap=2.0)
    agent = built(composed.soft_policy_critic([8]), spaces(VECTOR, BOX), loss)
    with torch.no_grad():
        agent.nets["multiplier"].value.fill_(0.7)
    out = answer(loss, agent, batch)
    excess = plain - 2 * 2.0  # of two critics
    assert out.by_group["critic"].item() == pytest.approx(math.exp(0.7) * excess, rel=1e-5)
    assert out.by_group["multiplier"].item() == pytest.approx(-math.exp(0.7) * excess, rel=1e-5)


@pytest.mark.parametrize(("target", "rises"), [(0.0, True), (1e4, False)])
def test_cql_multiplier_rises_while_the_gap_exceeds_its_target(target, rises):
    loss = CQLContinuous("data", samples=3, target_gap=target)
    agent = built(composed.soft_policy_critic([8]), spaces(VECTOR, BOX), loss)
    out = answer(loss, agent, boxed(BATCH))
    (gradient,) = torch.autograd.grad(out.by_group["multiplier"], list(agent.nets["multiplier"].parameters()))
    assert (gradient.item() < 0) is rises  # descent moves against the gradient
