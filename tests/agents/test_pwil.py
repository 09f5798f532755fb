"""Primal Wasserstein imitation against a coupling of single units in numpy and float64."""

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from lfd.agents import REWARD
from lfd.agents.config import AgentConfig
from lfd.agents.pwil import PWIL
from lfd.agents.reward_model import Inputs
from lfd.errors import UserError
from tests.algos.cases import BOX, DICT, TWO, VECTOR, batch, boxed, float64, spaces

ATOMS, HORIZON = 8, 6
ROWS = batch(VECTOR, TWO, 1, ATOMS)
STEPS = batch(VECTOR, TWO, 2, HORIZON)


def new_agent(observation=VECTOR, action=TWO, rows=ROWS, **settings):
    """An agent whose atoms are the rows."""
    reward = PWIL(atoms=len(rows.action), **{"horizon": HORIZON, **settings})
    agent = AgentConfig({REWARD: reward}).build(spaces(observation, action))
    agent.nets[REWARD].set_atoms(rows, longest=20)
    return agent


def rewards_and_state(agent, steps):
    """The rewards of one episode, step by step, and what each leaves of the atoms."""
    net = agent.nets[REWARD]
    state, rewards, left = net.initial_state(1), [], []
    for index in range(len(steps.action)):
        reward, state = net(steps.at(slice(index, index + 1)), state)
        rewards.append(reward.item())
        left.append(state[0])
    return np.array(rewards), torch.stack(left)


def shown(rows, inputs=Inputs.obs_action):
    columns = {
        Inputs.obs: [float64(rows.obs)],
        Inputs.obs_action: [float64(rows.obs), np.eye(2)[rows.action]],
        Inputs.obs_next_obs: [float64(rows.obs), float64(rows.next_obs)],
    }
    return np.concatenate(columns[inputs], -1)


def by_units(atoms, steps, horizon, alpha=5.0, beta=5.0):
    """Each atom as `horizon` units of its own: every step takes the nearest that are left, as many as atoms."""
    std = atoms.std(0)
    std[std == 0] = 1
    units, rewards = np.repeat(atoms / std, horizon, axis=0), []
    for step in steps / std:
        distances = np.sqrt(((units - step) ** 2).sum(-1))
        order = np.argsort(distances, kind="stable")
        cost = distances[order[: len(atoms)]].sum() / (len(atoms) * horizon)
        rewards.append(alpha * np.exp(-beta * horizon / np.sqrt(atoms.shape[1]) * cost))
        units = units[order[len(atoms) :]]
    assert not len(units)
    return rewards


@pytest.mark.parametrize("inputs", list(Inputs))
@pytest.mark.parametrize("horizon", [3, 6, 8, 20])
def test_pwil_rewards_equal_a_coupling_of_units(inputs, horizon):
    steps = batch(VECTOR, TWO, 2, horizon)
    rewards, _ = rewards_and_state(new_agent(inputs=inputs, horizon=horizon), steps)
    np.testing.assert_allclose(rewards, by_units(shown(ROWS, inputs), shown(steps, inputs), horizon), rtol=1e-4)
    assert (rewards > 0).all() and (rewards <= 5).all()


def test_alpha_is_the_largest_reward_and_beta_its_decay():
    rewards, _ = rewards_and_state(new_agent(alpha=2.0, beta=0.5), STEPS)
    np.testing.assert_allclose(rewards, by_units(shown(ROWS), shown(STEPS), HORIZON, 2.0, 0.5), rtol=1e-4)


def test_steps_take_equal_weights_and_none_is_lost():
    _, left = rewards_and_state(new_agent(), STEPS)
    assert left.sum(-1).tolist() == [ATOMS * (HORIZON - 1 - step) for step in range(HORIZON)]
    assert (left >= 0).all() and (left.diff(dim=0) <= 0).all()


def test_step_beyond_the_horizon_has_reward_0():
    rewards, left = rewards_and_state(new_agent(horizon=3), STEPS)
    assert (rewards[:3] > 0).all() and (rewards[3:] == 0).all() and not left[2:].any()


def test_demonstrations_in_any_order_have_the_largest_reward():
    agent = new_agent(horizon=ATOMS)
    for order in (torch.arange(ATOMS), torch.randperm(ATOMS, generator=torch.Generator().manual_seed(0))):
        assert rewards_and_state(agent, ROWS.at(order))[0] == pytest.approx([5.0] * ATOMS, rel=1e-5)


def test_repeating_a_demonstrated_state_is_rewarded_once():
    rewards, _ = rewards_and_state(new_agent(horizon=ATOMS), ROWS.at(torch.zeros(ATOMS, dtype=torch.int64)))
    assert rewards[0] == pytest.approx(5.0) and (np.diff(rewards) < 0).all() and rewards[-1] < 0.5


def test_copy_of_a_transition_has_the_same_reward():
    """Trap: a table of rewards by the identity of tensors, where every copy misses and is worth 0."""
    agent = new_agent(rows=ROWS.map(torch.clone))
    rewards, _ = rewards_and_state(agent, STEPS)
    assert np.array_equal(rewards_and_state(agent, STEPS.map(torch.clone))[0], rewards) and (rewards > 0).all()


def test_parallel_episodes_do_not_share_atoms():
    net, other = new_agent().nets[REWARD], batch(VECTOR, TWO, 3, HORIZON)
    both = tree_map(lambda *columns: torch.stack(columns, 1), STEPS, other)
    state, rewards = net.initial_state(2), []
    for step in range(HORIZON):
        reward, state = net(both.at(step), state)
        rewards.append(reward)
    alone = [rewards_and_state(new_agent(), steps)[0] for steps in (STEPS, other)]
    np.testing.assert_allclose(torch.stack(rewards, 1), alone, rtol=1e-6)


def test_discrete_actions_and_parts_of_observations_are_one_hot():
    rows = batch(DICT, TWO, 1, ATOMS)
    atoms = new_agent(DICT, rows=rows).nets[REWARD].atoms
    expected = np.concatenate([float64(rows.obs["pose"]), np.eye(5)[rows.obs["room"]], np.eye(2)[rows.action]], -1)
    assert np.array_equal(atoms, expected)


def test_continuous_actions_are_clipped_before_the_comparison():
    rows = boxed(ROWS)
    agent = new_agent(action=BOX, rows=rows)
    inside, beyond = (rows.having(action=rows.action.sign() * reach) for reach in (1.0, 3.0))
    assert np.array_equal(rewards_and_state(agent, inside)[0], rewards_and_state(agent, beyond)[0])


def test_constant_number_of_the_atoms_is_not_scaled():
    rows = ROWS.having(obs=torch.cat([torch.full((ATOMS, 1), 0.1), ROWS.obs[:, 1:]], -1))
    net = new_agent(rows=rows).nets[REWARD]
    assert net.std[0] == 1 and (net.std[1:] != 1).all()


def test_horizon_is_the_longest_demonstration_unless_set():
    assert [new_agent(horizon=horizon).nets[REWARD].horizon.item() for horizon in (0, 7)] == [20, 7]


def test_pwil_with_a_wrong_value_is_refused_by_its_key(check_setup):
    with pytest.raises(UserError, match="^horizon: expected 0 or more, got -1$"):
        PWIL(horizon=-1)
