import multiprocessing
import os
import shutil
import time

import gymnasium as gym
import numpy as np
import pytest

from lfd.agents.actor_critic import Policy
from lfd.agents.q import QNet
from lfd.algos.bc import Cloning
from lfd.algos.cql import ConservativeDiscrete
from lfd.artifacts import Store
from lfd.errors import Refused
from lfd.hardware import Hardware
from lfd.learner import Algo
from lfd.log import RunLog
from lfd.pipeline import TrainingPipeline
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit import Fit
from lfd.stages.load import Load
from lfd.stages.recipe import Checks, Stop
from lfd.stages.training import Training


def demos(**settings):
    return Collect("random", **{"transitions": 60, **settings})


def learn(steps=4, reads="demos", **settings):
    return Fit(Algo(Policy([8]), {"bc": Cloning(reads)}, batch=8), steps, **{"check": Checks(0), **settings})


def score(*names, **settings):
    return Evaluate(list(names or ["learn"]), **{"episodes": 2, **settings})


@pytest.fixture
def plan(tmp_path, counting):
    """A pipeline that is not run."""
    return lambda stages, targets=("score",), env=counting: TrainingPipeline(
        stages, list(targets), env, Hardware(), Store(tmp_path / "store")
    )


STANDARD = {"expert": learn(), "demos": demos(), "learn": learn(), "score": score()}


def test_only_what_a_target_needs_is_in_the_graph(plan):
    assert plan(STANDARD).order == ["demos", "learn", "score"]
    assert plan(STANDARD, ["demos"]).order == ["demos"]


def test_a_second_run_answers_from_what_is_stored(run_stages, counting):
    first, second = (run_stages(STANDARD, counting) for _ in range(2))
    assert not any(report.cached for report in first.reports.values())
    assert list(second.reports) == list(first.reports) and all(report.cached for report in second.reports.values())
    assert second.missing() == [] and first.product("score") == second.product("score")


def test_a_change_makes_only_what_stands_behind_it_again(run_stages, counting):
    run_stages(STANDARD, counting)
    pipeline = run_stages({**STANDARD, "learn": learn(seed=1)}, counting)
    assert {name: report.cached for name, report in pipeline.reports.items()} == {
        "demos": True, "learn": False, "score": False,
    }  # fmt: skip


def test_names_of_stages_are_not_part_of_a_key(plan):
    first = plan(STANDARD)
    renamed = plan({"data": demos(), "student": learn(reads="data"), "result": score("student")}, ["result"])
    assert first.keys["demos"] == renamed.keys["data"] and first.keys["learn"] == renamed.keys["student"]


def test_names_of_stages_change_no_bits(run_stages, counting):
    first = run_stages(STANDARD, counting, "first").store.root
    renamed = {"data": demos(), "student": learn(reads="data"), "result": score("student")}
    second = run_stages(renamed, counting, "second").store.root
    names = ("agent.safetensors", "data.hdf5")
    made = [{path.relative_to(root): path.read_bytes() for name in names for path in root.glob(f"*/{name}")}
            for root in (first, second)]  # fmt: skip
    assert made[0] == made[1] and len(made[0]) == 2


def test_seeds_steps_data_and_env_are_part_of_a_key(plan, counting_next_step):
    base = plan(STANDARD).keys["learn"]
    for other in (
        {"learn": learn(seed=1)}, {"learn": learn(steps=5)}, {"demos": demos(seed=1)},
        {"learn": learn(stop=Stop(env_steps=10))}, {"learn": learn(members=2)},
    ):  # fmt: skip
        assert plan({**STANDARD, **other}).keys["learn"] != base
    assert plan(STANDARD, env=counting_next_step).keys["learn"] != base


def test_what_is_wrongly_wired_is_refused(plan):
    cases = [
        ({}, ["scores"], "targets: no stage is called 'scores'; did you mean 'score'"),
        ({}, [], "targets is empty"),
        ({"score": score("lern")}, ["score"], "score: no stage is called 'lern'; did you mean 'learn'"),
        ({"score": score("demos")}, ["score"], r"needs an actor, which 'demos' \(collect\) does not give"),
        ({"learn": learn(init_from="learn")}, ["score"], "circle: learn -> learn"),
        ({"learn": learn(reads="learn")}, ["score"], r"needs a dataset, which 'learn' \(fit\) does not give"),
    ]
    for change, targets, message in cases:
        with pytest.raises(Refused, match=message):
            plan({**STANDARD, **change}, targets)


def test_a_stage_that_interacts_needs_an_environment(plan):
    with pytest.raises(Refused, match="demos: steps an environment and there is none"):
        plan(STANDARD, env=None)


def test_a_failed_stage_leaves_nothing_that_looks_whole(run_stages, counting, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_stages(STANDARD, counting)
    assert not list((tmp_path / "store").glob("fit-*")) and len(list((tmp_path / "store").glob("collect-*"))) == 1
    assert not run_stages(STANDARD, counting).reports["learn"].cached


def test_a_copy_of_a_shorter_run_that_was_cut_off_is_no_harm(run_stages, counting, monkeypatch):
    """Killed while it copies what it goes on from, a run begins again."""
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


def test_many_processes_that_need_the_same_make_it_once(tmp_path, counting):
    made = tmp_path / "made"
    inner = Collect.run

    def run(self, lab):
        with made.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        return inner(self, lab)

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


def test_stages_in_a_row_each_start_from_the_one_before(run_stages, counting):
    stages = {
        "demos": demos(), "a": learn(), "b": learn(init_from="a", seed=1), "c": learn(init_from="b", seed=2),
    }  # fmt: skip
    assert list(run_stages(stages, counting).reports) == ["demos", "a", "b", "c"]


def test_a_loss_for_another_agent_is_refused_before_anything_runs(plan, tmp_path):
    wrong = Fit(Algo(QNet([8]), {"bc": Cloning("demos")}), 5)
    with pytest.raises(Refused, match="needs a PolicyAgent"):
        plan({**STANDARD, "learn": wrong})
    assert not (tmp_path / "store").exists()
    plan({**STANDARD, "learn": Fit(Algo(QNet([8]), {"gap": ConservativeDiscrete("demos")}), 5)})


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


def test_without_an_environment_the_file_tells_the_spaces(run_stages, file):
    stages = {"demos": Load(file(actions=3), max_episode_steps=10), "learn": learn()}
    pipeline = run_stages(stages, None)
    assert pipeline.spaces.action == gym.spaces.Discrete(3) == pipeline.product("learn").spaces.action
    assert pipeline.product("demos").passport["ends"] == {"terminated": 0, "truncated": 2, "cut": 0}


def test_what_does_not_fit_together_is_refused_without_an_environment_too(plan, file):
    limit = {"max_episode_steps": 10}
    wide, narrow = Load(file("wide.npz", size=3), **limit), Load(file("narrow.npz"), **limit)
    both = Fit(Algo(Policy([8]), {"a": Cloning("demos"), "b": Cloning("more")}, batch=8), 4)
    cases = [
        ({"demos": Load(file()), "learn": learn()}, "does not say how its episodes ended"),
        ({"demos": wide, "more": narrow, "learn": both}, "'more' is from other spaces than that of 'demos'"),
        ({"demos": narrow, "learn": Fit(Algo(QNet([8]), {"bc": Cloning("demos")}), 5)}, "needs a PolicyAgent"),
        ({"demos": narrow, "learn": learn(), "score": score()}, "score: steps an environment"),
    ]
    for stages, message in cases:
        with pytest.raises(Refused, match=message):
            plan(stages, [list(stages)[-1]], env=None)
