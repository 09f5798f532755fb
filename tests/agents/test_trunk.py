"""A shared trunk: what trains it, its target networks, sequences with a carried state, and what it keeps."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_map

from lfd.agents.config import AgentConfig
from lfd.agents.memory import GRUSpec
from lfd.agents.nets import PolicySpec, QEnsembleSpec, StateValueSpec
from lfd.algos.bc import BC
from lfd.algos.dqn import DQN
from lfd.algos.sac import SAC
from lfd.batch import Batch
from lfd.learner.learner import Algo, Learner
from lfd.learner.optim import Target
from lfd.learner.recording import RecordedStep
from lfd.rng import GeneratorRng
from tests import composed
from tests.algos.cases import BOX, TWO, VECTOR, batch, built, spaces, stir
from tests.memory import LSTMSpec

SIZE, LENGTH = 3, 6
MEMORIES = pytest.mark.parametrize("memory", [GRUSpec(8), LSTMSpec(8)], ids=["gru", "lstm"])
NETS = {"policy": PolicySpec(), "critic": QEnsembleSpec(), "value": StateValueSpec()}


def sequences(seed: int = 1, action=TWO) -> Batch:
    """Random sequences [SIZE, LENGTH]; episodes begin inside them and where they are cut."""
    rows = batch(VECTOR, action, seed, SIZE * LENGTH)
    shaped = rows.map(lambda column: column.reshape(SIZE, LENGTH, *column.shape[1:]))
    first = torch.zeros(SIZE, LENGTH, dtype=torch.bool)
    first[0, 0] = first[1, 2] = first[2, 3] = first[2, 5] = True
    return shaped.having(first=first)


def recurrent_agent(memory=None, targets=("critic",), action=TWO):
    agent = AgentConfig(NETS, memory or GRUSpec(8)).build(spaces(VECTOR, action))
    agent.add_target_networks(list(targets))
    return agent


def unrolled(agent, rows, target=False):
    """Features of `obs` and of `next_obs` [B, L, F], and the state after the last steps."""
    agent.begin_step(GeneratorRng(0))
    flat = agent.unroll(rows)
    found = [agent.features(obs, target) for obs in (flat.obs, flat.next_obs)]
    agent.end_step()
    return [features.reshape(*rows.first.shape, -1) for features in found], flat.state


def test_gru_equals_the_cell_of_torch():
    gru, generator = GRUSpec(8).build(5), torch.Generator().manual_seed(0)
    features, state = torch.randn(4, 5, generator=generator), torch.randn(4, 8, generator=generator)
    output, after = gru(gru.project(features), state)
    torch.testing.assert_close(output, gru.cell(features, state))
    assert after is output


@MEMORIES
@pytest.mark.parametrize("target", [False, True])
def test_sequence_cut_in_two_with_the_carried_state_equals_the_whole(memory, target):
    agent, rows = recurrent_agent(memory), sequences()
    whole, end = unrolled(agent, rows, target)
    for at in (1, 3, 5):
        head = rows.map(lambda column, at=at: column[:, :at])
        tail = rows.map(lambda column, at=at: column[:, at:])
        one, state = unrolled(agent, head, target)
        two, last = unrolled(agent, tail.having(state=state), target)
        for part, cut in zip(whole, zip(one, two, strict=True), strict=True):
            torch.testing.assert_close(torch.cat(cut, 1), part)
        torch.testing.assert_close(last, end)
        forgotten, _ = unrolled(agent, tail, target)
        assert not torch.allclose(forgotten[0], two[0])


def test_losses_of_a_sequence_cut_in_two_average_to_that_of_the_whole():
    config = AgentConfig({"policy": PolicySpec()}, GRUSpec(8))
    rows = sequences()
    learner = Learner([config.build(spaces(VECTOR, TWO))], Algo(config, {"bc": BC("data")}), 0, torch.device("cpu"))

    def loss(part):
        return learner.evaluate(["bc"], {"data": part}, GeneratorRng(0))["bc"].metrics.bc_loss

    half = LENGTH // 2
    head, tail = rows.map(lambda column: column[:, :half]), rows.map(lambda column: column[:, half:])
    _, state = unrolled(learner.agent, head)
    mean = (loss(head) + loss(tail.having(state=state))) / 2
    torch.testing.assert_close(mean, loss(rows))
    assert abs(loss(tail) - loss(tail.having(state=state))) > 1e-6


def test_unroll_restarts_at_each_first_step():
    agent, rows = recurrent_agent(), sequences()
    features, _ = unrolled(agent, rows)
    other = rows.having(obs=rows.obs.clone())
    other.obs[1, :2] += 10.0
    changed, _ = unrolled(agent, other)
    assert torch.equal(changed[0][1, 2:], features[0][1, 2:]) and not torch.equal(changed[0][1, :2], features[0][1, :2])


def test_next_obs_has_the_memory_of_its_own_step():
    """Also at the end of an episode, where the next row begins another one."""
    agent, rows = recurrent_agent(), sequences()
    (here, there), _ = unrolled(agent, rows.having(next_obs=rows.obs.roll(-1, 1)))
    goes_on = ~rows.first[:, 1:]
    torch.testing.assert_close(there[:, :-1][goes_on], here[:, 1:][goes_on])
    assert not torch.isclose(there[:, :-1][~goes_on], here[:, 1:][~goes_on]).all()


@MEMORIES
def test_target_trunk_unrolls_by_its_own_weights(memory):
    agent, rows = recurrent_agent(memory), sequences()
    stir(agent.targets, 3)
    slow, _ = unrolled(agent, rows, target=True)
    fast, _ = unrolled(agent, rows)
    other = recurrent_agent(memory, targets=())
    for name in other.trunk:
        other.nets[name].load_state_dict(agent.targets[name].state_dict())
    expected, _ = unrolled(other, rows)
    assert torch.equal(slow[0], expected[0]) and torch.equal(slow[1], expected[1])
    assert not torch.allclose(slow[0], fast[0])


@MEMORIES
def test_acting_step_by_step_has_the_features_of_the_unrolled_sequence(memory):
    agent, rows = recurrent_agent(memory), sequences()
    rows = rows.having(first=torch.zeros_like(rows.first))
    agent.begin_step(GeneratorRng(0))
    greedy = agent.policy(agent.unroll(rows).obs).mode().reshape(SIZE, LENGTH)
    agent.end_step()
    state = agent.initial_state(SIZE)
    for step in range(LENGTH):
        action, state = agent.act(rows.obs[:, step], state, None)
        assert torch.equal(action, greedy[:, step])


def test_padded_episodes_equal_unpadded_ones():
    agent, rows = recurrent_agent(), sequences()
    lengths = [LENGTH, 4, 2]
    valid = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    agent.begin_step(GeneratorRng(0))
    flat = agent.unroll(rows.having(valid=valid))
    padded = [agent.features(obs) for obs in (flat.obs, flat.next_obs)]
    agent.end_step()
    alone = [
        unrolled(agent, rows.map(lambda column, row=row, length=length: column[row : row + 1, :length]))[0]
        for row, length in enumerate(lengths)
    ]
    for index, features in enumerate(padded):
        torch.testing.assert_close(features, torch.cat([each[index][0] for each in alone]))
    assert torch.equal(flat.action, rows.action[valid]) and "valid" not in flat.__dict__


def learner_of(members=1, record=True, action=TWO):
    config = AgentConfig({"policy": PolicySpec(), "critic": QEnsembleSpec()}, GRUSpec(8))
    losses = {"bc": BC("data"), "td": DQN("data")}
    algo = Algo(config, losses, lr=1e-2, targets={"critic": Target(tau=0.1)})
    agents = []
    for seed in range(members):
        torch.manual_seed(seed)
        agents.append(built(config, spaces(VECTOR, action), *losses.values(), targets=["critic"]))
        torch.manual_seed(seed)
        stir(agents[-1].nets, seed)
    return Learner(agents, algo, 0, torch.device("cpu"), record)


@pytest.mark.filterwarnings("error")
def test_recurrent_members_equal_single_agents():
    many, batches = learner_of(2), [sequences(5), sequences(6)]
    singles = [Learner([agent], many.algo, 0, torch.device("cpu")) for agent in learner_of(2).agents]
    stacked = tree_map(lambda *columns: torch.stack(columns), *batches)
    for _ in range(3):
        metrics, feedback = many.step({"data": stacked}, ["bc", "td"])
        for index, single in enumerate(singles):
            alone, state = single.step({"data": batches[index]}, ["bc", "td"])
            for name, value in alone.items():
                torch.testing.assert_close(metrics[name][index], value, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(feedback["data/state"][index], state["data/state"], rtol=1e-4, atol=1e-5)


def test_recurrent_step_is_recorded_and_replays_to_the_same_bits():
    recorded, plain = learner_of(), learner_of(record=False)
    for step in range(6):
        one, other = (each.step({"data": sequences(step)}, ["bc", "td"]) for each in (recorded, plain))
        assert all(torch.equal(one[0][name], value) for name, value in other[0].items())
        assert torch.equal(one[1]["data/state"], other[1]["data/state"])
    assert isinstance(recorded._replay, RecordedStep) and all(recorded._replay.programs.values())
    assert all(torch.equal(value, plain.parameters[name]) for name, value in recorded.parameters.items())


def test_target_networks_over_a_trunk_bring_it_and_follow_it():
    learner = learner_of()
    parts = {"encoder", "memory", "critic"}
    assert set(learner.agent.targets) == parts
    slow = {name: value for name, value in learner.parameters.items() if name.startswith("targets.")}
    before = {name: value.detach().clone() for name, value in slow.items()}
    learner.step({"data": sequences()}, ["bc", "td"])
    assert {name.split(".")[1] for name in slow} == parts - {"encoder"}  # a vector's encoder has no weights
    for name, value in slow.items():
        online = learner.parameters[name.replace("targets.", "nets.")].detach()
        torch.testing.assert_close(value, before[name].lerp(online, 0.1))
        assert not torch.equal(value, before[name])


def test_target_networks_of_nets_that_encode_by_themselves_bring_no_trunk():
    agent = built(composed.q_net([8]), spaces(VECTOR, TWO), targets=["critic"])
    assert set(agent.targets) == {"critic"} and not agent.trunk


def test_term_through_a_critic_stops_at_the_trunk():
    config = AgentConfig({"policy": PolicySpec(), "critic": QEnsembleSpec()}, GRUSpec(8))
    loss = SAC("data")
    algo = Algo(config, {"sac": loss}, targets={"critic": Target()})

    def moved(through):
        agent = built(config, spaces(VECTOR, BOX), loss, targets=["critic"])
        loss.weight, type(loss).through_critic = 1.0, through
        learner = Learner([agent], algo, 0, torch.device("cpu"))
        learner.step({"data": sequences(1, BOX)}, ["sac"])
        return torch.cat([value.detach().flatten() for value in agent.nets["memory"].parameters()])

    declared = SAC.through_critic
    try:
        stopped, passed = moved(("policy",)), moved(())
    finally:
        SAC.through_critic = declared
    assert not torch.equal(stopped, passed)


@MEMORIES
def test_act_keeps_no_observations(memory):
    agent, obs = recurrent_agent(memory), torch.randn(SIZE, 4)
    agent.act(obs, agent.initial_state(SIZE), None)
    seen = weakref.ref(obs)
    del obs
    gc.collect()
    assert seen() is None


def test_observations_that_were_not_unrolled_are_refused():
    agent = replace(AgentConfig(NETS), memory=GRUSpec(8)).build(spaces(VECTOR, TWO))
    with pytest.raises(AssertionError, match="observations of a recurrent agent come from `unroll`"):
        agent.value(torch.randn(2, 4))
