"""EDAC's diversity against finite differences in numpy."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.algos.edac import EDAC
from lfd.algos.sac import SAC
from lfd.learner.learner import Algo, Learner
from lfd.learner.optim import OptimConfig, OptimizerKind, Target
from tests import composed
from tests.algos.cases import BATCH, BOX, VECTOR, answer, batch, boxed, built, by_hand, float64, spaces

ROWS = boxed(BATCH)
CRITICS = 4


def new_agent(critics=CRITICS):
    agent = built(composed.soft_policy_critic([8, 8], critics=critics), spaces(VECTOR, BOX), SAC("data"))
    agent.add_target_networks(["critic"])
    return agent


def slopes(net):
    """[B, A] of one critic at the data, by central differences."""
    obs, action, h = float64(ROWS.obs), float64(ROWS.action), 1e-6
    steps = [by_hand(net, obs, action + h * axis) - by_hand(net, obs, action - h * axis) for axis in np.eye(3)]
    return np.concatenate(steps, -1) / (2 * h)


def test_edac_equals_finite_differences():
    agent = new_agent()
    unit = [slopes(net) for net in agent.nets["critic"].nets]
    unit = [slope / np.linalg.norm(slope, axis=-1, keepdims=True) for slope in unit]
    pairs = [(unit[i] * unit[j]).sum(-1) for i in range(CRITICS) for j in range(CRITICS) if i != j]
    expected = sum(pairs).mean() / (CRITICS - 1)
    assert answer(EDAC("data"), agent, ROWS).by_group["critic"].item() == pytest.approx(expected, rel=1e-4)


def test_edac_of_one_action_dimension_has_no_gradient():
    """Directions on a line are 1 or -1, and do not turn with the critics."""

    def length(size):
        box = gym.spaces.Box(-2.0, 2.0, (size,), np.float32)
        agent = composed.soft_policy_critic([8, 8], critics=CRITICS).build(spaces(VECTOR, box))
        term = answer(EDAC("data"), agent, ROWS.having(action=ROWS.action[:, :size])).by_group["critic"]
        gradients = torch.autograd.grad(term, list(agent.nets["critic"].parameters()), allow_unused=True)
        return sum(gradient.square().sum().item() for gradient in gradients if gradient is not None) ** 0.5

    assert length(1) < 1e-4 < 0.1 < length(2)


def test_edac_of_equal_critics_is_maximal():
    agent = new_agent()
    first, *others = agent.nets["critic"].nets
    for other in others:
        other.load_state_dict(first.state_dict())
    assert answer(EDAC("data"), agent, ROWS).by_group["critic"].item() == pytest.approx(CRITICS, rel=1e-4)


def test_edac_descent_diversifies_gradients():
    agent = new_agent()
    algo = Algo(losses={"row": EDAC("data")}, optim={"critic": OptimConfig(OptimizerKind.sgd, lr=0.05)})
    learner = Learner([agent], algo, 0, torch.device("cpu"))
    rows = batch(VECTOR, BOX, 1)
    said = [learner.step({"data": rows}, ["row"])[0]["row/edac_loss"].item() for _ in range(50)]
    assert said[-1] < said[0] - 0.1


def test_edac_with_weight_0_is_sac_n():
    """The same bits, with the row weighted 0 and without it."""

    def trained(losses):
        algo = Algo(losses=losses, targets={"critic": Target()}, lr=1e-3)
        learner = Learner([new_agent()], algo, 0, torch.device("cpu"))
        for seed in range(3):
            learner.step({"data": batch(VECTOR, BOX, seed)}, list(losses))
        return learner.parameters

    alone = trained({"sac": SAC("data")})
    beside = trained({"sac": SAC("data"), "diversity": EDAC("data", weight=0.0)})
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_sac_n_target_is_the_minimum_of_all_critics():
    agent = new_agent(critics=5)
    with torch.no_grad():
        agent.targets["critic"].nets[3].head[-1].bias.fill_(-100.0)
    metrics = answer(SAC("data"), agent, ROWS.having(discount=torch.ones(8))).metrics
    assert metrics.critic_loss.item() > 5 * 90**2
