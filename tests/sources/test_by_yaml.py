"""Sources that are configured by yaml alone, through `lfd.run`."""

import json

import pytest

import lfd
from lfd.errors import UserError
from lfd.log import read_records

MIXED = """# On- and off-policy losses on what one rollout collects, and demonstrations.
defaults:
  - schema
  - /net@agent.nets.policy: policy
  - /net@agent.nets.value: state_value
  - /source@sources.rollout: rollout
  - /source@sources.replay: replay
  - /source@sources.demos: dataset
  - /loss@losses.ppo: ppo
  - /loss@losses.own: bc
  - /loss@losses.bc: bc
  - _self_
sources:
  rollout: {num_envs: 2, num_steps: 16, expert: expert, expert_prob: {start: 1.0, end: 0.0, over: 10}}
  replay: {source: rollout, batch_size: 8, buffer_size: 100}
  demos: {batch_size: 4}
losses: {ppo: {reads: rollout}, own: {reads: replay}, bc: {reads: demos, weight: {start: 1.0, end: 0.0, over: 10}}}
batch_size: 16
steps: 20
"""
TINY = [
    "algo=mixed", "dataset=random", "dataset.transitions=100", "expert=script", "expert.script=tests.experts:balance",
    "learn.eval.every=20", "learn.eval.episodes=1", "score.episodes=1", "score.policies=[learn]",
]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "mixed.yaml").write_text(MIXED)
    return lambda *overrides: lfd.run([*TINY, f"outputs={tmp_path}", *overrides], config_dir=tmp_path / "mine")


def test_mix_of_sources_trains_by_yaml_alone(run):
    result = run()
    assert result.content["stages"]["learn"]["env_steps"] == 3 * 32  # 8 gradient steps a collection
    (record,) = [one for one in read_records(result.folder / "metrics.jsonl") if one.get("step") == 20]
    assert record["demo_steps"] == 20 * 4, json.dumps(record)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("replay.num_envs=4", "num_envs: expected none beside source=rollout, which collects, got 4"),
        ("rollout.expert=''", "expert_prob: expected 0 without an expert, got"),
        ("rollout.batch_size=64", "learn: algo.sources.rollout.batch_size: expected at most num_envs . num_steps = 32"),
        (
            "demos.sequences=streams",
            "learn: algo.sources.demos.sequences: expected windows for an agent without memory",
        ),
        (
            "replay.source=demos",
            "learn: algo.sources.replay.source: expected a rollout source .*'demos', a DatasetSourc",
        ),
    ],
)
def test_source_that_does_not_fit_is_refused_in_one_line(override, message, run):
    with pytest.raises(UserError, match=message) as error:
        run(f"algo.sources.{override}")
    assert "\n" not in str(error.value)
