"""Mixes of losses and pipelines are yaml alone: each runs by the Python interface, from a short file."""

import json
from pathlib import Path

import pytest

import lfd
from lfd.config.folder import config_folder

SMALL = ["score.episodes=1", "dataset=random", "dataset.transitions=200"]
SHORT = [*SMALL, "learn.steps=4", "learn.eval.every=0"]
ROLLOUT = ["algo.sources.rollout.num_steps=32"]
REPLAY = ["algo.sources.replay.learning_starts=40"]
TEACHER = ["expert=script", "expert.script=tests.experts:balance"]
# Options, environment, settings that make it short, and the training stages before `learn`.
MIXES = [
    ("algo=ppo_bc_td", "cartpole", ROLLOUT, []),
    ("algo=ppo_bc_td", "pendulum", ROLLOUT, []),
    ("algo=ppo_bc_gru", "cartpole", ROLLOUT, []),
    ("algo=ppo_gru", "cartpole", ROLLOUT, []),
    ("algo=bc_gru", "cartpole", [], []),
    ("algo=sac_demos", "pendulum", REPLAY, []),
    ("algo=cal_ql", "pendulum", REPLAY, []),
    ("algo=dqfd", "cartpole", REPLAY, []),
    ("algo=gail_bc", "cartpole", ROLLOUT, []),
    ("algo=td3_demos", "pendulum", [], []),
    ("algo=bc pipeline=off_policy", "cartpole", [], []),
    ("algo=ppo pipeline=bc_then_ppo", "cartpole", ROLLOUT, ["clone"]),
    ("algo=ppo_gru pipeline=bc_then_ppo", "cartpole", ROLLOUT, ["clone"]),
    ("algo=ppo pipeline=ppo_with_demos", "cartpole", ROLLOUT, ["mixed"]),
    ("algo=ppo pipeline=dagger_then_ppo", "cartpole", [*ROLLOUT, *TEACHER], ["imitate"]),
    ("algo=ppo pipeline=iql_then_ppo", "cartpole", ROLLOUT, ["offline"]),
    ("algo=ppo pipeline=iql_then_ppo", "pendulum", ROLLOUT, ["offline"]),
    ("algo=sac pipeline=finetune", "pendulum", REPLAY, ["offline"]),
    ("algo=sac_demos pipeline=finetune", "pendulum", REPLAY, ["offline"]),
    ("algo=cal_ql pipeline=finetune", "pendulum", REPLAY, ["offline"]),
    ("algo=dqn pipeline=finetune", "cartpole", REPLAY, ["offline"]),
    ("algo=dqfd pipeline=dqfd", "cartpole", REPLAY, ["pretrain"]),
]
# Files of mixes and pipelines, and their greatest number of lines.
ALGOS = "ppo_bc ppo_bc_td ppo_bc_gru ppo_gru bc_gru sac_demos cal_ql dqfd gail_bc td3_demos".split()
PIPELINES = "off_policy bc_then_ppo ppo_with_demos dagger_then_ppo iql_then_ppo finetune dqfd".split()
FILES = [*((f"algo/{name}", 25) for name in ALGOS), *((f"pipeline/{name}", 20) for name in PIPELINES)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One store for all, so that each environment's demonstrations are collected once."""
    return tmp_path_factory.mktemp("mixes")


@pytest.mark.parametrize(("options", "env", "settings", "stages"), MIXES, ids=[f"{o}-{e}" for o, e, _, _ in MIXES])
def test_mix_runs_by_yaml_alone(outputs, options, env, settings, stages):
    earlier = [setting for stage in stages for setting in (f"{stage}.steps=4", f"{stage}.eval.every=0")]
    result = lfd.run([*options.split(), f"env={env}", *SHORT, *settings, *earlier, f"outputs={outputs}"])
    trained = {stage: result.content["stages"][stage]["gradient_steps"] for stage in ("learn", *stages)}
    assert set(trained.values()) == {4} and trained.keys() <= result.scores.keys()


@pytest.mark.parametrize(("path", "most"), FILES)
def test_file_of_a_mix_is_short(path, most):
    assert len(Path(config_folder(), f"{path}.yaml").read_text().splitlines()) <= most


def test_environment_and_demonstration_steps_are_counted_separately(outputs):
    """A gradient step of `ppo_bc_td` with one epoch collects 8 x 32 transitions and draws 64 demonstrations."""
    settings = [*SMALL, *ROLLOUT, "learn.steps=10", "learn.eval.every=5", "learn.eval.episodes=1"]
    result = lfd.run(["algo=ppo_bc_td", "algo.sources.rollout.epochs=1", *settings, f"outputs={outputs}"])
    records = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    counted = {row["step"]: (row["env_steps"], row["demo_steps"]) for row in records if row["stage"] == "learn"}
    assert counted == {step: (step * 256, step * 64) for step in (5, 10)}
