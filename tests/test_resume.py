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
