"""Sequences of a dataset for agents with a memory: streams with carried state, whole episodes, exact resumption."""

from dataclasses import replace

import pytest
import torch

from lfd.agents.memory import GRUSpec
from lfd.algos.bc import BC
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.log import read_records
from lfd.rng import GeneratorRng
from lfd.sources.dataset import DatasetSource, Sequences
from lfd.sources.mix import Mix
from lfd.stages.collect import Collect
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from tests import composed
from tests.memory import UNITS, remembering
from tests.sources.test_dataset import episode
from tests.test_memory import ENV

COLUMNS = frozenset({"obs", "action", "next_obs"})
LENGTHS = {1: 5, 2: 1, 3: 4, 4: 3, 5: 7, 6: 2}


@pytest.fixture
def agent():
    torch.manual_seed(0)
    return remembering().build(ENV.spaces())


@pytest.fixture
def stream_of(open_source, write_data, agent):
    data = write_data([episode(name, length, "terminated") for name, length in LENGTHS.items()], ENV.spaces())

    def open_it(sequences, batch=12, sequence=4, validation=0.0, **context):
        source = DatasetSource(sequences=Sequences[sequences], validation=validation)
        given = {"name": "demos", "products": {"demos": data}, "columns": COLUMNS} | context
        return open_source(source, agent, batch=batch, sequence=sequence, **given)

    return open_it


def walked(batches, lane):
    """Names of the episodes that a stream walked through, after a check that their rows come in order."""
    rows = [tuple(row) for batch in batches for row in batch.obs[lane].int().tolist()]
    firsts = [first for batch in batches for first in batch.first[lane].tolist()]
    assert firsts == [t == 0 for _, t in rows]
    for (name, t), (following, after) in zip(rows, rows[1:], strict=False):
        assert (following, after) == (name, t + 1) if t + 1 < LENGTHS[name] else after == 0
    return [name for name, t in rows if t == 0]


def test_streams_walk_through_episodes_back_to_back(stream_of):
    stream = stream_of("streams")
    batches = [stream.next() for _ in range(40)]
    assert {batch.obs.shape for batch in batches} == {(3, 4, 2)} and batches[0].first[:, 0].all()
    names = [walked(batches, lane) for lane in range(3)]
    assert all(set(one) == set(LENGTHS) for one in names) and names[0] != names[1]


def test_pass_over_streams_has_every_episode_once(stream_of):
    stream = stream_of("streams", batch=2, sequence=2)
    total = sum(LENGTHS.values())
    passes = [[row for _ in range(total // 2) for row in stream.next().obs[0].tolist()] for _ in range(2)]
    for one in passes:
        assert sorted(one) == [[name, t] for name, length in LENGTHS.items() for t in range(length)]
    assert passes[0] != passes[1] and stream.epoch_steps() == total // 2


def test_streams_carry_the_recurrent_state_from_batch_to_batch(stream_of):
    stream = stream_of("streams")
    state = stream.next().state
    assert torch.equal(state, torch.zeros(3, UNITS)), "the initial state of the agent"
    reused = torch.ones(3, UNITS)
    stream.feedback({"state": reused})
    reused.fill_(7.0)  # as a recorded step reuses its outputs
    assert torch.equal(stream.next().state, torch.ones(3, UNITS))


def test_streams_cut_in_two_give_what_the_whole_gives(stream_of, agent):
    """With the carried state, two sequences of 4 have the features of one of 8."""

    @torch.no_grad()
    def features(batch):
        agent.begin_step(GeneratorRng(0))
        outputs = agent.features(agent.unroll(batch).obs)  # of the memory, [B * L, U]
        agent.end_step()
        return outputs.reshape(*batch.first.shape, -1)

    whole = stream_of("streams", batch=8, sequence=8)
    half = stream_of("streams", batch=4, sequence=4)
    for _ in range(5):
        parts = []
        for _ in range(2):
            parts.append(features(half.next()))
            half.feedback({"state": parts[-1][:, -1]})
        both = features(whole.next())
        whole.feedback({"state": both[:, -1]})
        torch.testing.assert_close(torch.cat(parts, 1), both)


def test_members_of_streams_walk_in_different_orders(stream_of):
    stream = stream_of("streams", members=2)
    batches = [stream.next() for _ in range(30)]
    assert batches[0].obs.shape == (2, 3, 4, 2) and batches[0].state.shape == (2, 3, UNITS)
    names = [walked([batch.map(lambda column, m=m: column[m]) for batch in batches], 0) for m in range(2)]
    assert names[0] != names[1] and set(names[0]) == set(names[1]) == set(LENGTHS)


def test_whole_episodes_are_padded_to_the_longest_of_the_batch(stream_of):
    stream = stream_of("episodes", batch=16, sequence=8)
    names = []
    for _ in range(9):
        batch = stream.next()
        lengths = [LENGTHS[int(name)] for name in batch.obs[:, 0, 0]]
        assert batch.valid.shape == batch.first.shape == batch.obs.shape[:2] == (2, max(lengths))
        assert batch.valid.sum(1).tolist() == lengths
        t = torch.arange(max(lengths)).expand(2, -1)
        assert torch.equal(batch.obs[..., 1][batch.valid].long(), t[batch.valid])
        assert torch.equal(batch.first, t == 0) and "state" not in batch.__dict__
        names += batch.obs[:, 0, 0].int().tolist()
    for start in range(0, 18, 6):
        assert sorted(names[start : start + 6]) == sorted(LENGTHS)
    assert stream.epoch_steps() == 3 and stream.demo_steps == 3 * sum(LENGTHS.values())


def test_whole_episodes_are_the_only_batches_without_a_fixed_shape():
    assert not DatasetSource(sequences=Sequences.episodes).fixed_shapes
    assert DatasetSource(sequences=Sequences.streams).fixed_shapes and Mix({"a": 1.0}).fixed_shapes


@pytest.mark.parametrize("sequences", ["windows", "streams", "episodes"])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("used", [0, 1, 7])
def test_restored_sequences_continue_with_the_same_batches(sequences, members, used, stream_of):
    def opened():
        return stream_of(sequences, batch=14, sequence=7, members=members)

    def go_on(stream, steps):
        batches = []
        for step in range(steps):
            batches.append(stream.next())
            lead = (2, 2) if members == 2 else (2,)
            stream.feedback({"state": torch.full((*lead, UNITS), float(step + 1))})
        return batches

    first, second = opened(), opened()
    go_on(first, used)
    tensors, state = first.save()
    tensors = {name: value.clone() for name, value in tensors.items()}
    expected = go_on(first, 20)
    second.restore(tensors, state)
    assert second.save()[1] == state
    for one, other in zip(expected, go_on(second, 20), strict=True):
        assert one.__dict__.keys() == other.__dict__.keys()
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dict__)
    assert first.demo_steps == second.demo_steps > 0


@pytest.mark.parametrize("sequences", ["streams", "episodes"])
def test_held_out_episodes_are_never_walked_through(sequences, stream_of):
    stream = stream_of(sequences, batch=16, sequence=8, validation=0.34)
    drawn = {int(name) for _ in range(30) for name in stream.next().obs[..., 0].flatten().tolist()}
    held = stream.held_out()
    names = {int(name) for batch in held for name in batch.obs[..., 0].flatten().tolist()}
    assert len(drawn) == 4
    if sequences == "episodes":
        assert names == set(LENGTHS) - drawn
        assert held[0].valid.sum(1).tolist() == [LENGTHS[int(name)] for name in held[0].obs[:, 0, 0]]
    else:
        assert names <= set(LENGTHS) - drawn
    assert torch.equal(held[0].obs, stream.held_out()[0].obs)


def test_state_of_a_mix_is_that_of_its_parts(stream_of, open_source, write_data, agent):
    data = write_data([episode(name, length, "terminated") for name, length in LENGTHS.items()], ENV.spaces(), name="b")
    sources = {"demos": DatasetSource(sequences=Sequences.streams), "more": DatasetSource()}
    mix = Mix({"more": 0.5, "demos": 0.5})
    stream = open_source(
        mix, agent, products={"demos": data, "more": data}, sources=sources, columns=COLUMNS, batch=16, sequence=4
    )
    assert torch.equal(stream.next().state, torch.zeros(4, UNITS))
    stream.feedback({"state": torch.arange(4.0)[:, None].expand(4, UNITS)})
    assert stream.next().state[:, 0].tolist() == [0, 0, 2, 3] and stream.demo_steps == 32


def test_episode_longer_than_the_sequence_is_refused(stream_of):
    with pytest.raises(
        UserError, match="^algo.sequence_length: expected 7 or more, the longest episode of dataset 'demos', .* got 4;"
    ):
        stream_of("episodes")


def test_windows_longer_than_every_episode_are_refused(stream_of):
    with pytest.raises(
        UserError, match="^algo.sequence_length: expected at most 7, the longest episode of dataset 'demos', got 8; .*"
    ):
        stream_of("windows", batch=16, sequence=8)
    assert stream_of("windows", batch=14, sequence=7).next().obs.shape == (2, 7, 2)


def fit(sequences, mixed=False, **settings):
    sources = {"demos": DatasetSource(sequences=Sequences[sequences])}
    if mixed:
        sources["both"] = Mix({"demos": 0.5, "more": 0.5})
    agent = replace(composed.policy([16]), memory=GRUSpec(UNITS))
    losses = {"bc": BC("both" if mixed else "demos")}
    algo = Algo(agent, losses, sources, **{"sequence_length": 4, **settings})
    return Fit(algo, 6, eval=EvalConfig(3, 1))


def test_sequences_that_do_not_fit_are_refused(check_setup, agent):
    with pytest.raises(UserError, match="algo.sources.demos.sequences: expected windows or streams in a mix .both.,"):
        check_setup(fit("episodes", mixed=True), "learn", ENV.spaces(), ["demos", "more"])
    plain = Algo(composed.policy([8]), {"bc": BC("demos")}, {"demos": DatasetSource(sequences=Sequences.streams)})
    with pytest.raises(UserError, match="demos.sequences: expected windows for an agent without memory"):
        check_setup(Fit(plain, 6), "learn", ENV.spaces(), ["demos"])


def test_demo_steps_are_logged_beside_env_steps(run_stages, agent):
    stage = fit("streams", batch_size=12)
    pipeline = run_stages({"demos": Collect("random", episodes=5), "learn": stage}, ENV)
    records = read_records(pipeline.product("learn").folder / "metrics.jsonl")
    assert [(record["step"], record["env_steps"], record["demo_steps"]) for record in records] == [
        (3, 0, 3 * 12), (6, 0, 6 * 12),
    ]  # fmt: skip
