"""What every open source is, what one that acts is beside it, and that a plugin's is a full one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from lfd.algos.bc import BC
from lfd.batch import Batch
from lfd.learner.learner import Algo
from lfd.registry import parts
from lfd.rng import derive, reset_seeds
from lfd.sources import Collector, Source, Stream
from lfd.sources.collector import VecEnvCollector
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from tests import composed


class OnesStream(Stream):
    """Only what a stream has to implement: states at random, in which action 1 is right."""

    def __init__(self, context):
        self.context, self.count = context, 0

    def next(self):
        self.count += 1
        return Batch(
            obs=torch.full((self.context.batch, 2), self.count % 5.0), action=torch.ones(self.context.batch).long()
        )

    def epoch_steps(self):
        return 1

    def save(self):
        return {}, {"count": self.count}

    def restore(self, tensors, state):
        self.count = state["count"]


@dataclass
class Ones(Source):
    def provides(self, sources):
        return frozenset({"obs", "action"})

    def open(self, context):
        return OnesStream(context)


class ActingStream(VecEnvCollector):
    """Every gradient step is a step of the environments."""

    def next(self):
        obs, action = self._obs, self._act().cpu().numpy()
        self.step, self.reward = self._step(action)
        return Batch(obs=torch.from_numpy(obs), action=torch.from_numpy(action))

    def epoch_steps(self):
        return 1


@dataclass
class Acting(Source):
    interacts: ClassVar[bool] = True

    num_envs: int = 3

    def provides(self, sources):
        return frozenset({"obs", "action"})

    def open(self, context):
        return ActingStream(context, self.num_envs)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(parts("source"), "ones", Ones)
    monkeypatch.setitem(parts("source"), "acting", Acting)


def algo(source):
    return Algo(composed.policy([8]), {"bc": BC("mine")}, {"mine": source}, lr=0.1, batch_size=16)


def test_stream_of_the_four_abstract_methods_trains_a_stage(counting, run_stages, open_source):
    pipeline = run_stages({"learn": Fit(algo(Ones()), 50, eval=EvalConfig(0))}, counting)
    agent = pipeline.product("learn").agents()[0]
    action, _ = agent.act(open_source(Ones(), agent).next().obs, agent.initial_state(64), None)
    assert (action == 1).all()
    assert pipeline.reports["learn"].summary["env_steps"] == 0


def test_collector_of_a_plugin_trains_a_stage_that_counts_its_steps(counting, run_stages):
    pipeline = run_stages({"learn": Fit(algo(Acting()), 100, reset_every=40, eval=EvalConfig(0))}, counting)
    assert pipeline.reports["learn"].summary["env_steps"] == 300


def opened(counting, open_source):
    torch.manual_seed(0)
    return open_source(Acting(), composed.q_net([8]).build(counting.spaces()), counting)


def test_collector_counts_transitions_and_returns_each_episode_once(counting, open_source):
    collector = opened(counting, open_source)
    ended = []
    for _ in range(20):
        collector.next()
        assert collector.reward.tolist() == collector.step.reward.tolist()
        ended += [(value, length) for _, value, length in collector.step.finished]
    assert collector.env_steps == 60 and len(ended) > 5
    assert collector.episodes() == ended and collector.episodes() == []
    assert all(value == length * (length + 1) / 2 for value, length in ended)


def test_reset_envs_seeds_environments_by_its_index(counting, open_source):
    collector = opened(counting, open_source)

    def names(index):
        collector.reset_envs(index)
        assert collector._first.all()
        return collector._obs[:, 0].tolist()

    first, second = names(0), names(1)
    assert len({*first, *second}) == 6 and names(0) == first


def test_restored_collector_acts_as_the_saved_one_did(counting, open_source):
    one, other = opened(counting, open_source), opened(counting, open_source)
    one.next()
    other.restore(*one.save())
    for collector in (one, other):
        collector.reset_envs(1)
    assert all(torch.equal(one.next().action, other.next().action) for _ in range(10))
    assert one.env_steps == other.env_steps == 33


def test_collectors_of_a_mix_are_those_of_its_parts(counting, open_source):
    sources = {"ones": Ones(), "replay": Replay(100, 2, 10), "acting": Acting()}
    mix = Mix(dict.fromkeys(sources, 0.25) | {"acting": 0.5})
    stream = open_source(
        mix, composed.q_net([8]).build(counting.spaces()), counting, sources=sources, columns={"obs", "action"}
    )
    assert not isinstance(stream, Collector)
    assert stream.collectors == (stream.parts["replay"], stream.parts["acting"])
    stream.next()
    assert [collector.env_steps for collector in stream.collectors] == [10, 3]


def test_seeds_of_resets_are_derived_and_fit_31_bits():
    seeds = reset_seeds(100, 3, "reset")
    assert seeds[7] == derive(3, "reset", 7) % 2**31
    assert len(set(seeds)) == 100 and 0 <= min(seeds) and np.log2(max(seeds)) < 31
