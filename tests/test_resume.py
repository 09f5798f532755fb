"""A run that is killed, stopped or lengthened ends with the same bits as an uninterrupted one, for every algorithm."""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import time
from pathlib import Path

import pytest

from lfd.errors import RunError
from lfd.log import Progress, read_records
from lfd.stages.fit.config import Stop
from lfd.stages.fit.loop import TrainLoop

programs = runpy.run_path(str(Path(__file__).with_name("programs.py")))
FORK = multiprocessing.get_context("fork")


def bits(artifact: Path) -> dict[str, object]:
    """Hashes of weights and data, scores, and records without times."""
    paths = [
        path for path in artifact.rglob("*") if path.suffix in (".safetensors", ".hdf5") and "state" not in path.parts
    ]
    digests = {str(path.relative_to(artifact)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    content: dict[str, object] = dict(digests)
    content["metrics"] = [{**record, "seconds": 0} for record in read_records(artifact / "metrics.jsonl")]
    for name in ("agent.json", "scores.json"):
        if (artifact / name).exists():
            content[name] = json.loads((artifact / name).read_text())
    return content


def start(program, folder, signal_at=None, **settings):
    """Runs a program in a process, which ends with the exit code of the run.

    With `signal_at=(number, count)` the process sends itself the signal `number` at its count-th report of progress: a
    fast run would be over before a signal from another process comes.
    """

    def body():
        if signal_at:
            _signal_at_progress(*signal_at)
        try:
            programs["run"](program, folder, **settings)
        except RunError as ending:
            os._exit(ending.exit_code)
        os._exit(0)

    process = FORK.Process(target=body)
    process.start()
    return process


def kill_in_stage(program, folder, stage, step):
    """Runs a program in a process that is killed at a gradient step of one of its training stages."""

    def body():
        train = TrainLoop.step

        def stepped(self):
            if self.context.name == stage and self.learner.step_count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            train(self)

        TrainLoop.step = stepped
        programs["run"](program, folder)

    process = FORK.Process(target=body)
    process.start()
    process.join()
    return process.exitcode


def _signal_at_progress(number, count):
    update, calls = Progress.update, itertools.count(1)

    def counted(*args, **kwargs):
        update(*args, **kwargs)
        if next(calls) == count:
            os.kill(os.getpid(), number)

    Progress.update = counted


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The bits of uninterrupted runs, and how long they took."""
    known = {}

    def run(program, **settings):
        key = (program, *sorted(settings.items()))
        if key not in known:
            began = time.monotonic()
            result = bits(programs["run"](program, tmp_path_factory.mktemp(program), **settings))
            known[key] = (result, time.monotonic() - began)
        return known[key]

    return run


@pytest.mark.parametrize("program", programs["PROGRAMS"])
def test_run_killed_at_random_times_resumes_to_the_same_bits(program, straight, tmp_path):
    expected, seconds = straight(program)
    moments = [random.uniform(0, seconds) for _ in range(1 if program in programs["VARIANTS"] else 2)]
    for moment in moments:
        process = start(program, tmp_path)
        process.join(moment)
        process.kill()
        process.join()
    assert bits(programs["run"](program, tmp_path)) == expected, f"killed after {moments} s of {seconds} s"


@pytest.mark.parametrize(
    ("program", "number"), [("dqn", signal.SIGTERM), ("bc", signal.SIGINT), ("collect", signal.SIGTERM)]
)
def test_run_stopped_by_a_signal_exits_75_and_resumes_to_the_same_bits(program, number, straight, tmp_path):
    expected, _ = straight(program)
    process = start(program, tmp_path, (number, random.randint(1, 40)))
    process.join()
    assert process.exitcode == 75
    assert bits(programs["run"](program, tmp_path)) == expected


@pytest.mark.parametrize(("stage", "step"), [("clone", 25), ("learn", 200)])
def test_stages_with_rules_of_their_own_killed_in_either_resume_to_the_same_bits(stage, step, straight, tmp_path):
    """Their optimizers, schedules and stop rules differ: the clone stops at a plateau, before its steps are done."""
    expected, _ = straight("bc_then_ppo")
    assert kill_in_stage("bc_then_ppo", tmp_path, stage, step) == -signal.SIGKILL
    agents = {path: path.stat().st_mtime_ns for path in tmp_path.glob("fit-*/agent.safetensors")}
    assert len(agents) == ["clone", "learn"].index(stage)
    artifact = programs["run"]("bc_then_ppo", tmp_path)
    assert bits(artifact) == expected
    assert all(path.stat().st_mtime_ns == time_made for path, time_made in agents.items())  # no stage began again
    (clone,) = (path for path in tmp_path.glob("fit-*/agent.json") if path.parent != artifact)
    assert 2 < len(json.loads(clone.read_text())["history"]) < 20  # evaluations every 10 of 200 steps


@pytest.mark.parametrize("program", programs["ALGOS"])
def test_longer_run_continues_from_a_shorter_one_to_the_same_bits(program, straight, tmp_path, monkeypatch):
    expected, _ = straight(program)
    programs["run"](program, tmp_path, steps=150)
    steps = []
    step = TrainLoop.step
    monkeypatch.setattr(TrainLoop, "step", lambda self: steps.append(self.learner.step_count) or step(self))
    assert bits(programs["run"](program, tmp_path)) == expected
    # With an environment it continues from its last reset, which comes after a whole collection or round.
    begins = {
        "dqn": 120, "phases": 90, "members": 130, "ppo": 128, "ppo_bc": 128, "gail_dqn": 81, "gail_ppo": 132,
        "pwil_dqn": 120, "pwil_ppo": 128, "qrdqn": 120, "td3": 120, "sqil": 120, "airl": 132,
        "rollout_replay": 120, "ppo_replay": 128, "ppo_bc_td": 128, "ppo_bc_gru": 128, "sac_demos": 120, "cal_ql": 120,
        "dqfd": 120, "gail_bc": 132, "td3_demos": 128, "bc_then_ppo": 128, "iql_then_ppo": 128, "dagger_then_ppo": 128,
    }  # fmt: skip
    assert steps[0] == begins.get(program, 150)


def test_longer_run_killed_while_it_copies_a_shorter_one_copies_it_again(straight, tmp_path, monkeypatch):
    expected, _ = straight("dagger")
    programs["run"]("dagger", tmp_path, steps=150)
    copy = shutil.copytree

    def cut_off(source, *args, **kwargs):
        if Path(source).name == "state":
            raise KeyboardInterrupt
        return copy(source, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copytree", cut_off)
        programs["run"]("dagger", tmp_path)
    assert bits(programs["run"]("dagger", tmp_path)) == expected


def test_longer_run_drops_the_last_evaluation_of_a_shorter_one(tmp_path):
    """It may not be due in the longer run, where a rule that counts evaluations would stop at another step."""
    programs["run"]("bc", tmp_path, steps=100, stop=Stop(plateau=3))
    longer = bits(programs["run"]("bc", tmp_path, stop=Stop(plateau=3)))
    assert [evaluation["step"] for evaluation in longer["agent.json"]["history"]] == [80, 160, 240]


def test_run_with_another_stop_rule_starts_again(tmp_path):
    """The rule would have ended the earlier run before its last step."""
    programs["run"]("bc", tmp_path)
    stopped = bits(programs["run"]("bc", tmp_path, steps=300, stop=Stop(score=1.0)))
    assert [evaluation["step"] for evaluation in stopped["agent.json"]["history"]] == [80]


def test_longer_run_has_all_snapshots(tmp_path):
    programs["run"]("bc", tmp_path, every=20, snapshots=2, steps=100)
    longer = programs["run"]("bc", tmp_path, every=20, snapshots=3, steps=200)
    kept = json.loads((longer / "agent.json").read_text())["snapshots"]
    assert [snapshot["step"] for snapshot in kept] == [20, 100, 200]
    assert all((longer / snapshot["file"]).exists() for snapshot in kept)
