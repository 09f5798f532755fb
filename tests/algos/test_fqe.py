"""FQE against the exact solution of a small problem, and what it must not confuse."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents import Agent
from lfd.algos.fqe import FQE, policy_action
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.learner.learner import Algo, Learner
from lfd.learner.optim import Target
from lfd.rng import GeneratorRng
from tests import composed
from tests.algos.cases import BATCH, BOX, TWO, VECTOR, answer, batch, boxed, by_hand, float64, spaces

STATES = gym.spaces.Discrete(3)


class Scripted(Agent):
    """Takes the action that is written down for a state, or a function of it."""

    def __init__(self, spaces, rule):
        super().__init__(spaces, {})
        self.rule, self.seen = rule, []

    def act(self, obs, state, noise):
        self.seen.append(obs)
        assert noise is None
        return self.rule(obs), state


def critic(observation, action, rule, hidden=(16,)):
    agent = composed.critic(list(hidden)).build(spaces(observation, action))
    agent.add_target_networks(["critic"])
    agent.frozen["policy"] = Scripted(Spaces(observation, action), rule)
    return agent


def test_fqe_finds_the_exact_values_of_another_policy():
    """A chain of three states with as many transitions of each action, solved by linear algebra."""
    gamma, evaluated = 0.8, np.array([1, 0, 1])
    follows = np.array([[0, 1], [2, 0], [1, 2]])  # [state, action]; action 1 in state 2 terminates
    reward = np.array([[0.5, -1.0], [2.0, 0.0], [1.0, 3.0]])
    alive = np.array([[1, 1], [1, 1], [1, 0]])
    bellman, earned = np.zeros((6, 6)), reward.ravel()
    for state in range(3):
        for action in range(2):
            successor = follows[state, action]
            bellman[2 * state + action, 2 * successor + evaluated[successor]] = gamma * alive[state, action]
    exact = np.linalg.solve(np.eye(6) - bellman, earned)

    table = torch.from_numpy(evaluated)
    agent = critic(STATES, TWO, lambda obs: table[obs], hidden=())
    state, action = (torch.from_numpy(part.ravel()) for part in np.mgrid[:3, :2])
    rows = Batch(
        obs=state, action=action, next_obs=torch.from_numpy(follows.ravel()),
        reward=torch.from_numpy(earned).float(), discount=gamma * torch.from_numpy(alive.ravel()).float(),
    )  # fmt: skip
    algo = Algo(
        composed.critic([]), {"fqe": FQE("data")}, lr=0.05, targets={"critic": Target(tau=1, update_interval=20)}
    )
    learner = Learner([agent], algo, 0, torch.device("cpu"))
    for _ in range(2_000):
        learner.step({"data": rows}, ["fqe"])
    np.testing.assert_allclose(agent.q(state, action).squeeze(-1).detach().numpy(), exact, atol=1e-3)


def test_fqe_loss_row_by_row():
    agent = critic(VECTOR, TWO, lambda obs: (obs[:, 0] > 0).long(), hidden=(5,))
    with torch.no_grad():
        for value in agent.targets.parameters():
            value.mul_(-0.5)
    out = answer(FQE("data"), agent, BATCH)

    def q(net: nn.Module, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        weights = [value.detach().double().numpy() for value in net.parameters()]
        values = np.maximum(obs @ weights[0].T + weights[1], 0) @ weights[2].T + weights[3]
        return values[np.arange(len(action)), action]

    given = {name: column.double().numpy() for name, column in BATCH.__dict__.items()}
    chosen = (given["next_obs"][:, 0] > 0).astype(int)
    target = given["reward"] + given["discount"] * q(agent.targets["critic"], given["next_obs"], chosen)
    expected = np.mean((q(agent.nets["critic"], given["obs"], BATCH.action.numpy()) - target) ** 2)
    assert out.by_group["critic"].item() == pytest.approx(expected, rel=1e-5)


def test_fqe_loss_of_continuous_actions_row_by_row():
    agent, rows = critic(VECTOR, BOX, lambda obs: 3 * obs[:, :3], hidden=(5,)), boxed(BATCH)
    with torch.no_grad():
        for value in agent.targets.parameters():
            value.mul_(-0.5)
    out = answer(FQE("data"), agent, rows)
    obs, action, reward, following, discount = map(
        float64, (rows.obs, rows.action, rows.reward, rows.next_obs, rows.discount)
    )
    chosen = 1.5 * following[:, :3]  # the box goes from -2 to 2
    assert (abs(chosen) > 1).any() and (abs(chosen) < 1).any()
    target = reward + discount * by_hand(agent.targets["critic"].nets[0], following, np.clip(chosen, -1, 1))[:, 0]
    expected = np.mean((by_hand(agent.nets["critic"].nets[0], obs, action)[:, 0] - target) ** 2)
    assert out.by_group["critic"].item() == pytest.approx(expected, rel=1e-5)


def test_evaluated_policy_gets_raw_observations_and_returns_network_units():
    agent = critic(VECTOR, BOX, lambda obs: obs[:, :3])
    agent.normalize_observations()
    raw = batch(VECTOR, BOX, 3)
    agent.update_normalizers(5 * raw.obs + 1)
    preprocessed = agent.preprocess(raw)
    action = policy_action(agent, preprocessed.next_obs)
    torch.testing.assert_close(agent.frozen["policy"].seen[0], raw.next_obs, rtol=1e-4, atol=1e-5)
    assert (action.abs() == 1).any(), "the test needs actions at the bounds, to which an environment clips them"
    torch.testing.assert_close(action, (raw.next_obs[:, :3] / 2).clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_fqe_does_not_bootstrap_after_a_termination():
    over = BATCH.having(discount=torch.zeros(8))
    terms = [
        answer(FQE("data"), critic(VECTOR, TWO, lambda obs, a=a: torch.full((8,), a)), over).by_group["critic"]
        for a in (0, 1)
    ]
    assert terms[0] == terms[1]
    goes_on = BATCH.having(discount=torch.full((8,), 0.9))
    others = [
        answer(FQE("data"), critic(VECTOR, TWO, lambda obs, a=a: torch.full((8,), a)), goes_on).by_group["critic"]
        for a in (0, 1)
    ]
    assert others[0] != others[1]


def test_fqe_draws_no_random_numbers_and_leaves_the_policy_unchanged():
    agent = critic(VECTOR, TWO, lambda obs: torch.zeros(8, dtype=torch.long))
    noise = GeneratorRng(2)
    before = noise.state()
    out = answer(FQE("data"), agent, BATCH, noise)
    assert torch.equal(noise.state(), before) and set(out.by_group) == {"critic"}
    assert not [name for name, _ in agent.named_parameters() if "policy" in name]
