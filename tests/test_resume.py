"""A run that is killed, stopped or lengthened ends with the bits of one that never was."""

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

from lfd.errors import Ending
from lfd.log import Progress, read_records
from lfd.stages.recipe import Stop
from lfd.stages.training import Training

programs = runpy.run_path(str(Path(__file__).with_name("programs.py")))
FORK = multiprocessing.get_context("fork")


def bits(artifact: Path) -> dict[str, object]:
    """Hashes of weights and data, scores, and what was recorded but for times."""
    paths = [
        path for path in artifact.rglob("*") if path.suffix in (".safetensors", ".hdf5") and "state" not in path.parts
    ]
    digests = {str(path.relative_to(artifact)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    found: dict[str, object] = dict(digests)
    found["metrics"] = [{**record, "seconds": 0} for record in read_records(artifact / "metrics.jsonl")]
    if (artifact / "agent.json").exists():
        found["history"] = json.loads((artifact / "agent.json").read_text())
    return found


def start(program, folder, signal_at=None, **settings):
    """Run it in a process of its own, which ends with the exit code of the run.

    With `signal_at=(number, count)` the process sends itself that signal when it reports progress for the count-th
    time: by the clock of another process a fast run is over before the signal comes.
    """

    def body():
        if signal_at:
            _send_itself(*signal_at)
        try:
            programs["run"](program, folder, **settings)
        except Ending as ending:
            os._exit(ending.exit_code)
        os._exit(0)

    process = FORK.Process(target=body)
    process.start()
    return process


def _send_itself(number, count):
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
            found = bits(programs["run"](program, tmp_path_factory.mktemp(program), **settings))
            known[key] = (found, time.monotonic() - began)
        return known[key]

    return run


@pytest.mark.parametrize("program", programs["PROGRAMS"])
def test_killed_at_random_moments_it_ends_with_the_same_bits(program, straight, tmp_path):
    expected, seconds = straight(program)
    moments = [random.uniform(0, seconds) for _ in range(2)]
    for moment in moments:
        process = start(program, tmp_path)
        process.join(moment)
        process.kill()
        process.join()
    assert bits(programs["run"](program, tmp_path)) == expected, f"killed after {moments} s of {seconds} s"


@pytest.mark.parametrize(
    ("program", "number"), [("dqn", signal.SIGTERM), ("bc", signal.SIGINT), ("collect", signal.SIGTERM)]
)
def test_stopped_by_a_signal_it_exits_75_and_ends_with_the_same_bits(program, number, straight, tmp_path):
    expected, _ = straight(program)
    process = start(program, tmp_path, (number, random.randint(1, 40)))
    process.join()
    assert process.exitcode == 75
    assert bits(programs["run"](program, tmp_path)) == expected


@pytest.mark.parametrize("program", programs["ALGOS"])
def test_a_longer_run_goes_on_from_a_shorter_one_to_the_same_bits(program, straight, tmp_path, monkeypatch):
    expected, _ = straight(program)
    programs["run"](program, tmp_path, steps=150)
    steps = []
    step = Training.step
    monkeypatch.setattr(Training, "step", lambda self: steps.append(self.learner.step_count) or step(self))
    assert bits(programs["run"](program, tmp_path)) == expected
    # With an environment from the last boundary, which falls behind a whole collection or round.
    begins = {
        "dqn": 120, "phases": 90, "members": 130, "ppo": 128, "ppo_bc": 128, "gail_dqn": 81, "gail_ppo": 132,
        "pwil_dqn": 120, "pwil_ppo": 128,
    }  # fmt: skip
    assert steps[0] == begins.get(program, 150)


def test_taking_over_a_shorter_run_can_be_cut_off_and_is_done_again(straight, tmp_path, monkeypatch):
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


def test_the_last_check_of_a_shorter_run_is_none_of_a_longer_one(tmp_path):
    """It need not fall on the cadence, and a rule that counts checks would stop elsewhere."""
    programs["run"]("bc", tmp_path, steps=100, stop=Stop(plateau=3))
    longer = bits(programs["run"]("bc", tmp_path, stop=Stop(plateau=3)))
    assert [check["step"] for check in longer["history"]["history"]] == [80, 160, 240]


def test_another_stop_rule_is_another_training(tmp_path):
    """A longer run with a rule that would have ended the shorter one early may not begin behind that end."""
    programs["run"]("bc", tmp_path)
    stopped = bits(programs["run"]("bc", tmp_path, steps=300, stop=Stop(score=1.0)))
    assert [check["step"] for check in stopped["history"]["history"]] == [80]


def test_snapshots_of_a_longer_run_are_all_there(tmp_path):
    programs["run"]("bc", tmp_path, every=20, checkpoints=2, steps=100)
    longer = programs["run"]("bc", tmp_path, every=20, checkpoints=3, steps=200)
    kept = json.loads((longer / "agent.json").read_text())["snapshots"]
    assert [one["step"] for one in kept] == [20, 100, 200]
    assert all((longer / one["file"]).exists() for one in kept)
