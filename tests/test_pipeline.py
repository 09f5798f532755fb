"""The pipeline: order, keys, stored artifacts, refusals, failures."""

import multiprocessing
import os
import shutil
import time

import gymnasium as gym
import numpy as np
import pytest

from lfd.algos.bc import BC
from lfd.algos.cql import CQLDiscrete
from lfd.errors import UserError
from lfd.hardware import Hardware
from lfd.learner.learner import Algo
from lfd.log import RunLog
from lfd.pipeline import TrainingPipeline
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.loop import TrainLoop
from lfd.stages.fit.stage import Fit
from lfd.stages.load import Load
from lfd.store.artifacts import Store
from tests import composed


def demos(**settings):
    return Collect("random", **{"transitions": 60, **settings})


def learn(steps=4, reads="demos", **settings):
    return Fit(
        Algo(composed.policy([8]), {"bc": BC(reads)}, batch_size=8), steps, **{"eval": EvalConfig(0), **settings}
    )


def score(*names, **settings):
    return Evaluate(list(names or ["learn"]), **{"episodes": 2, **settings})


@pytest.fixture
def plan(tmp_path, counting):
    """A pipeline that is not run."""
    return lambda stages, targets=("score",), env=counting: TrainingPipeline(
        stages, list(targets), env, Hardware(), Store(tmp_path / "store")
    )


STANDARD = {"expert": learn(), "demos": demos(), "learn": learn(), "score": score()}


def test_pipeline_order_has_only_stages_that_targets_need(plan):
    assert plan(STANDARD).order == ["demos", "learn", "score"]
    assert plan(STANDARD, ["demos"]).order == ["demos"]


def test_pipeline_second_run_uses_stored_artifacts(run_stages, counting):
    first, second = (run_stages(STANDARD, counting) for _ in range(2))
    assert not any(report.cached for report in first.reports.values())
    assert list(second.reports) == list(first.reports) and all(report.cached for report in second.reports.values())
    assert second.missing() == [] and first.product("score") == second.product("score")


def test_pipeline_after_a_change_runs_only_later_stages(run_stages, counting):
    run_stages(STANDARD, counting)
    pipeline = run_stages({**STANDARD, "learn": learn(seed=1)}, counting)
    assert {name: report.cached for name, report in pipeline.reports.items()} == {
        "demos": True, "learn": False, "score": False,
    }  # fmt: skip


def test_pipeline_keys_do_not_depend_on_names_of_stages(plan):
    first = plan(STANDARD)
    renamed = plan({"data": demos(), "student": learn(reads="data"), "result": score("student")}, ["result"])
    assert first.keys["demos"] == renamed.keys["data"] and first.keys["learn"] == renamed.keys["student"]


def test_pipeline_bits_do_not_depend_on_names_of_stages(run_stages, counting):
    first = run_stages(STANDARD, counting, "first").store.root
    renamed = {"data": demos(), "student": learn(reads="data"), "result": score("student")}
    second = run_stages(renamed, counting, "second").store.root
    names = ("agent.safetensors", "data.hdf5")
    made = [{path.relative_to(root): path.read_bytes() for name in names for path in root.glob(f"*/{name}")}
            for root in (first, second)]  # fmt: skip
    assert made[0] == made[1] and len(made[0]) == 2


def test_pipeline_keys_depend_on_seeds_steps_data_and_env(plan, counting_next_step):
    base = plan(STANDARD).keys["learn"]
    for other in (
        {"learn": learn(seed=1)}, {"learn": learn(steps=5)}, {"demos": demos(seed=1)},
        {"learn": learn(stop=Stop(env_steps=10))}, {"learn": learn(members=2)},
    ):  # fmt: skip
        assert plan({**STANDARD, **other}).keys["learn"] != base
    assert plan(STANDARD, env=counting_next_step).keys["learn"] != base


def test_pipeline_with_wrong_names_is_refused(plan):
    cases = [
        ({}, ["scores"], "targets: no stage is called 'scores'; did you mean 'score'"),
        ({}, [], "targets: expected one or more of"),
        ({"score": score("lern")}, ["score"], "score: no stage is called 'lern'; did you mean 'learn'"),
        ({"score": score("demos")}, ["score"], r"needs an actor, which 'demos' \(collect\) does not provide"),
        ({"learn": learn(init_from="learn")}, ["score"], "circle: learn -> learn"),
        ({"learn": learn(reads="learn")}, ["score"], r"needs a dataset, which 'learn' \(fit\) does not provide"),
    ]
    for change, targets, message in cases:
        with pytest.raises(UserError, match=message):
            plan({**STANDARD, **change}, targets)


def test_pipeline_with_interaction_without_an_environment_is_refused(plan):
    with pytest.raises(UserError, match="demos: needs an environment, got env=none"):
        plan(STANDARD, env=None)


def test_pipeline_failed_stage_leaves_no_artifact(run_stages, counting, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoop, "_finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_stages(STANDARD, counting)
    assert not list((tmp_path / "store").glob("fit-*")) and len(list((tmp_path / "store").glob("collect-*"))) == 1
    assert not run_stages(STANDARD, counting).reports["learn"].cached


def test_pipeline_killed_while_it_copies_a_shorter_run_starts_again(run_stages, counting, monkeypatch):
    """The copy of the shorter run may be incomplete."""
    expected = run_stages({"demos": demos(), "learn": learn(20)}, counting, "straight").product("learn")
    copy, left = shutil.copytree, iter([1])

    def dies(*args, **kwargs):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return copy(*args, **kwargs)

    run_stages({"demos": demos(), "learn": learn(10)}, counting)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", dies)
        with pytest.raises(KeyboardInterrupt):
            run_stages({"demos": demos(), "learn": learn(20)}, counting)
    again = run_stages({"demos": demos(), "learn": learn(20)}, counting).product("learn")
    assert (again.folder / "agent.safetensors").read_bytes() == (expected.folder / "agent.safetensors").read_bytes()


def test_pipeline_in_many_processes_runs_a_common_stage_once(tmp_path, counting):
    made = tmp_path / "made"
    inner = Collect.run

    def run(self, context):
        with made.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        return inner(self, context)

    def job(seed):
        Collect.run = run
        with Store(tmp_path / "store") as store:
            stages = {"demos": demos(), "learn": learn(seed=seed)}
            log = RunLog(tmp_path / f"run{seed}" / "metrics.jsonl")
            TrainingPipeline(stages, ["learn"], counting, Hardware(), store).run(log)

    processes = [multiprocessing.get_context("fork").Process(target=job, args=(seed,)) for seed in range(16)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 16
    assert len(made.read_text().splitlines()) == 1
    stored = [path.name.partition("-")[0] for path in (tmp_path / "store").glob("[!.]*")]
    assert sorted(stored) == ["collect"] + ["fit"] * 16


def test_pipeline_runs_a_chain_of_training_stages(run_stages, counting):
    stages = {
        "demos": demos(), "a": learn(), "b": learn(init_from="a", seed=1), "c": learn(init_from="b", seed=2),
    }  # fmt: skip
    assert list(run_stages(stages, counting).reports) == ["demos", "a", "b", "c"]


def test_pipeline_with_a_loss_of_another_agent_makes_nothing(plan, tmp_path):
    wrong = Fit(Algo(composed.q_net([8]), {"bc": BC("demos")}), 5)
    with pytest.raises(UserError, match="needs a policy"):
        plan({**STANDARD, "learn": wrong})
    assert not (tmp_path / "store").exists()
    plan({**STANDARD, "learn": Fit(Algo(composed.q_net([8]), {"gap": CQLDiscrete("demos")}), 5)})


@pytest.fixture
def file(tmp_path):
    def write(name="data.npz", size=2, actions=2):
        starts = np.zeros(40, bool)
        starts[[0, 10]] = True
        drawn = np.random.default_rng(0).integers(0, actions, (40, 1))
        drawn[0] = actions - 1
        np.savez(
            tmp_path / name, obs=np.zeros((40, size)), actions=drawn, rewards=np.ones(40), episode_starts=starts,
            episode_returns=np.ones(2),
        )  # fmt: skip
        return str(tmp_path / name)

    return write


def test_pipeline_without_an_environment_uses_the_spaces_of_files(run_stages, file):
    stages = {"demos": Load(file(actions=3), max_episode_steps=10), "learn": learn()}
    pipeline = run_stages(stages, None)
    assert pipeline.spaces.action == gym.spaces.Discrete(3) == pipeline.product("learn").spaces.action
    assert pipeline.product("demos").metadata["ends"] == {"terminated": 0, "truncated": 2, "cut": 0}


def test_pipeline_without_an_environment_checks_stages_too(plan, file):
    limit = {"max_episode_steps": 10}
    wide, narrow = Load(file("wide.npz", size=3), **limit), Load(file("narrow.npz"), **limit)
    both = Fit(Algo(composed.policy([8]), {"a": BC("demos"), "b": BC("more")}, batch_size=8), 4)
    cases = [
        ({"demos": Load(file()), "learn": learn()}, "does not tell how its episodes ended"),
        (
            {"demos": wide, "more": narrow, "learn": both},
            "expected the spaces of 'demos' in the data of 'more', got others",
        ),
        ({"demos": narrow, "learn": Fit(Algo(composed.q_net([8]), {"bc": BC("demos")}), 5)}, "needs a policy"),
        ({"demos": narrow, "learn": learn(), "score": score()}, "score: needs an environment"),
    ]
    for stages, message in cases:
        with pytest.raises(UserError, match=message):
            plan(stages, [list(stages)[-1]], env=None)
