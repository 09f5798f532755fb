"""Primal Wasserstein imitation against a coupling of single units in numpy and float64."""

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from lfd.agents import REWARD
from lfd.agents.judge import Inputs, JudgeSpec
from lfd.algos.pwil import PWIL
from lfd.errors import Refused
from lfd.learner import Algo, Learner
from lfd.stages.fit import Fit
from tests.algos.cases import BOX, DICT, FRAMES, TWO, VECTOR, answer, batch, boxed, float64, spaces

ATOMS, HORIZON = 8, 6
ROWS = batch(VECTOR, TWO, 1, ATOMS)
STEPS = batch(VECTOR, TWO, 2, HORIZON)


def new_agent(observation=VECTOR, action=TWO, rows=ROWS, **settings):
    """An agent whose atoms are the rows."""
    loss = PWIL("demos", atoms=len(rows.action), **{"horizon": HORIZON, **settings})
    agent = JudgeSpec().build(spaces(observation, action))
    agent.add(loss.modules(agent))
    answer(loss, agent, rows)
    return agent


def paid(agent, steps):
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
def test_rewards_of_an_episode(inputs, horizon):
    steps = batch(VECTOR, TWO, 2, horizon)
    rewards, _ = paid(new_agent(inputs=inputs, horizon=horizon), steps)
    np.testing.assert_allclose(rewards, by_units(shown(ROWS, inputs), shown(steps, inputs), horizon), rtol=1e-4)
    assert (rewards > 0).all() and (rewards <= 5).all()


def test_alpha_is_the_most_and_beta_how_fast_it_falls():
    rewards, _ = paid(new_agent(alpha=2.0, beta=0.5), STEPS)
    np.testing.assert_allclose(rewards, by_units(shown(ROWS), shown(STEPS), HORIZON, 2.0, 0.5), rtol=1e-4)


def test_every_step_takes_an_equal_share_and_none_is_lost():
    _, left = paid(new_agent(), STEPS)
    assert left.sum(-1).tolist() == [ATOMS * (HORIZON - 1 - step) for step in range(HORIZON)]
    assert (left >= 0).all() and (left.diff(dim=0) <= 0).all()


def test_a_step_beyond_the_horizon_is_worth_nothing():
    rewards, left = paid(new_agent(horizon=3), STEPS)
    assert (rewards[:3] > 0).all() and (rewards[3:] == 0).all() and not left[2:].any()


def test_what_does_as_the_demonstrations_do_is_paid_in_full_in_whatever_order():
    agent = new_agent(horizon=ATOMS)
    for order in (torch.arange(ATOMS), torch.randperm(ATOMS, generator=torch.Generator().manual_seed(0))):
        assert paid(agent, ROWS.at(order))[0] == pytest.approx([5.0] * ATOMS, rel=1e-5)


def test_to_stay_where_the_demonstrations_are_for_a_moment_pays_once():
    rewards, _ = paid(new_agent(horizon=ATOMS), ROWS.at(torch.zeros(ATOMS, dtype=torch.int64)))
    assert rewards[0] == pytest.approx(5.0) and (np.diff(rewards) < 0).all() and rewards[-1] < 0.5


def test_a_copy_of_a_transition_is_worth_the_same():
    """Trap: a table of rewards by the identity of tensors, where every copy misses and is worth 0."""
    agent = new_agent(rows=ROWS.map(torch.clone))
    rewards, _ = paid(agent, STEPS)
    assert np.array_equal(paid(agent, STEPS.map(torch.clone))[0], rewards) and (rewards > 0).all()


def test_episodes_side_by_side_do_not_share_atoms():
    net, other = new_agent().nets[REWARD], batch(VECTOR, TWO, 3, HORIZON)
    both = tree_map(lambda *columns: torch.stack(columns, 1), STEPS, other)
    state, rewards = net.initial_state(2), []
    for step in range(HORIZON):
        reward, state = net(both.at(step), state)
        rewards.append(reward)
    alone = [paid(new_agent(), steps)[0] for steps in (STEPS, other)]
    np.testing.assert_allclose(torch.stack(rewards, 1), alone, rtol=1e-6)


def test_discrete_actions_and_parts_of_observations_are_one_hot():
    rows = batch(DICT, TWO, 1, ATOMS)
    atoms = new_agent(DICT, rows=rows).nets[REWARD].atoms
    expected = np.concatenate([float64(rows.obs["pose"]), np.eye(5)[rows.obs["room"]], np.eye(2)[rows.action]], -1)
    assert np.array_equal(atoms, expected)


def test_continuous_actions_are_compared_as_the_environment_takes_them():
    rows = boxed(ROWS)
    agent = new_agent(action=BOX, rows=rows)
    inside, beyond = (rows.having(action=rows.action.sign() * reach) for reach in (1.0, 3.0))
    assert np.array_equal(paid(agent, inside)[0], paid(agent, beyond)[0])


def test_a_number_that_is_always_the_same_counts_as_it_is():
    rows = ROWS.having(obs=torch.cat([torch.full((ATOMS, 1), 0.1), ROWS.obs[:, 1:]], -1))
    net = new_agent(rows=rows).nets[REWARD]
    assert net.std[0] == 1 and (net.std[1:] != 1).all()


def test_a_validation_leaves_the_atoms_alone():
    agent = new_agent()
    atoms = agent.nets[REWARD].atoms.clone()
    with torch.no_grad():
        out = answer(PWIL("demos", atoms=ATOMS), agent, STEPS)
    assert torch.equal(agent.nets[REWARD].atoms, atoms) and out.metrics["loss"] > 0
    assert answer(PWIL("demos", atoms=ATOMS), agent, ROWS).metrics["loss"] == 0


def test_members_have_atoms_of_their_own():
    loss = PWIL("demos", atoms=ATOMS)
    agents = [JudgeSpec().build(spaces(VECTOR, TWO)) for _ in range(2)]
    for agent in agents:
        agent.add(loss.modules(agent))
    learner = Learner(agents, Algo(JudgeSpec(), {"pwil": loss}, batch=ATOMS), 0, torch.device("cpu"))
    rows = [ROWS, batch(VECTOR, TWO, 5, ATOMS)]
    learner.step({"demos": tree_map(lambda *columns: torch.stack(columns), *rows)}, ["pwil"])
    for agent, own in zip(agents, rows, strict=True):
        alone = new_agent(rows=own).nets[REWARD]
        assert torch.equal(agent.nets[REWARD].atoms, alone.atoms)
        torch.testing.assert_close(agent.nets[REWARD].std, alone.std)


def test_what_does_not_go_is_refused():
    with pytest.raises(Refused, match="1 or more atoms, a horizon of 0 or more, alpha and beta above 0 are"):
        PWIL("demos", horizon=-1)
    with pytest.raises(Refused, match=r"losses.pwil reads 8 rows at once, algo.batch is 6; set it to 8"):
        fit = Fit(Algo(JudgeSpec(), {"pwil": PWIL("demos", atoms=ATOMS)}, batch=6), 1)
        fit.check_wiring("reward", spaces(VECTOR, TWO), ["demos"])
    with pytest.raises(Refused, match="between frames say little"):
        new_agent(FRAMES)
