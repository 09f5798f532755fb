"""The batch size of each source: what streams, mixes, checks and estimates make of it."""

from dataclasses import replace

import pytest

from lfd.agents.memory import GRUSpec
from lfd.algos.bc import BC
from lfd.algos.cql import CQLDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner
from lfd.learner.optim import Target
from lfd.sources.dataset import DatasetSource
from lfd.sources.interactive import Interactive
from lfd.sources.mix import Mix
from lfd.sources.preference_pairs import PreferencePairs
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages import PipelineContext
from lfd.stages.collect import Collect
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from lfd.store.keys import describe
from tests import composed
from tests.test_memory import ENV

KINDS = [DatasetSource, Interactive, lambda **own: Mix({"a": 1.0}, **own), PreferencePairs, Replay, Rollout]


@pytest.mark.parametrize("kind", KINDS)
def test_batch_size_is_a_field_of_every_source_and_of_its_key_if_it_is_set(kind):
    assert kind().batch_size is None and "batch_size" not in describe(kind())["fields"]
    assert describe(kind(batch_size=32))["fields"]["batch_size"] == 32


@pytest.fixture
def sizes(monkeypatch):
    """The rows of the batch of each source in the last gradient step."""
    seen = {}
    step = Learner.step

    def watched(self, batches, names, targets=None):
        seen.update({name: len(batch.action) for name, batch in batches.items()})
        return step(self, batches, names, targets)

    monkeypatch.setattr(Learner, "step", watched)
    return seen


def mixed(**own):
    losses = {"ppo": PPO("rollout"), "bc": BC("demos"), "both": BC("both")}
    sources = {
        "rollout": Rollout(4, 16, epochs=1), "demos": DatasetSource(batch_size=24),
        "both": Mix({"more": 0.25, "replay": 0.75}, batch_size=40), "more": DatasetSource("demos"),
        "replay": Replay(300, 4, 50),
    }  # fmt: skip
    for name, size in own.items():
        sources[name].batch_size = size
    return Algo(composed.policy_value([8]), losses, sources, batch_size=16)


def test_each_source_has_its_own_batch_size(counting, run_stages, sizes):
    stages = {"demos": Collect("random", transitions=100), "learn": Fit(mixed(rollout=32), 3, eval=EvalConfig(0))}
    summary = run_stages(stages, counting).reports["learn"].summary
    assert sizes == {"rollout": 32, "demos": 24, "both": 40}
    # collections of 64 rows for 2 minibatches each, and a replay of 1 a step
    assert summary["env_steps"] == 2 * 64 + 52


def test_use_of_a_source_has_the_rows_of_its_batch(counting, tmp_path):
    fit = Fit(mixed(rollout=32), 3)
    context = PipelineContext(stages={}, spaces=counting.spaces(), env=counting, store=tmp_path)
    uses = {name: fit.use_of(name, "learn", context) for name in fit.read_sources()}
    assert {name: use.rows for name, use in uses.items()} == {
        "rollout": 32, "demos": 24, "both": 40, "more": 10, "replay": 30,
    }  # fmt: skip
    keys = {name: use.batch_key for name, use in uses.items()}
    assert keys["rollout"] == "learn: algo.sources.rollout.batch_size"
    assert keys["replay"] == keys["more"] == "learn: algo.sources.both.batch_size"
    assert fit.sources()["rollout"].env_steps(uses["rollout"]) == 2 * 64


def test_epoch_of_a_source_follows_its_batch_size(open_source, counting):
    stream = open_source(Rollout(2, 8), composed.policy_value([8]).build(counting.spaces()), counting, batch=4)
    stream.next()
    assert stream.epoch_steps() == 4


def test_batch_size_of_a_part_of_a_mix_is_refused(counting, check_setup):
    with pytest.raises(
        UserError,
        match="^learn: algo.sources.more.batch_size: expected null, as algo.sources.both divides .*, got 8; set",
    ):
        check_setup(Fit(mixed(more=8), 3), "learn", counting.spaces(), ["demos"])


@pytest.mark.parametrize(
    ("own", "key", "rows"), [(None, "algo.batch_size", 80), (96, "algo.sources.rollout.batch_size", 96)]
)
def test_batch_size_that_a_rollout_cannot_fill_is_refused_by_the_key_that_was_set(
    own, key, rows, counting, check_setup
):
    algo = Algo(
        composed.policy_value([8]), {"ppo": PPO("rollout")}, {"rollout": Rollout(4, 16, batch_size=own)}, batch_size=80
    )
    message = (
        f"^learn: {key}: expected at most num_envs \\* num_steps = 64 rows of a collection of rollout, got {rows};"
    )
    with pytest.raises(UserError, match=message):
        check_setup(Fit(algo, 3), "learn", counting.spaces(), [])


def test_batch_size_of_whole_sequences_is_asked_for_by_the_key_that_was_set(check_setup):
    def check(size, **own):
        agent, sources = replace(composed.policy([8]), memory=GRUSpec(4)), {"demos": DatasetSource(**own)}
        algo = Algo(agent, {"bc": BC("demos")}, sources, batch_size=size, sequence_length=4)
        check_setup(Fit(algo, 3), "learn", ENV.spaces(), ["demos"])

    with pytest.raises(
        UserError, match="^learn: algo.batch_size: expected a multiple of algo.sequence_length=4, got 6"
    ):
        check(6)
    with pytest.raises(UserError, match="^learn: algo.sources.demos.batch_size: expected a multiple of .*=4, got 10"):
        check(6, batch_size=10)
    check(6, batch_size=8)


def test_batch_size_of_a_mix_too_small_for_its_fractions_is_refused_by_its_key(counting, run_stages):
    stages = {"demos": Collect("random", transitions=100), "learn": Fit(mixed(both=1), 3, eval=EvalConfig(0))}
    with pytest.raises(UserError, match="algo.sources.both.batch_size: expected a row for each of the fractions"):
        run_stages(stages, counting)


def test_batch_size_beyond_the_memory_is_refused_by_its_key(counting, check_setup):
    losses = {"td": DQN("demos"), "gap": CQLDiscrete("more")}
    sources = {"more": DatasetSource("demos", batch_size=10**12)}
    algo = Algo(composed.q_net([8]), losses, sources, targets={"critic": Target()})
    with pytest.raises(UserError, match="^learn: algo.sources.more.batch_size=1000000000000"):
        check_setup(Fit(algo, 3), "learn", counting.spaces(), ["demos"])
