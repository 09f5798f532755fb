"""Worker processes: order, errors, killed processes, stops, and equal data for any number of them."""

import os
import signal
import subprocess
import sys
import time
from itertools import count

import numpy as np
import pytest

from lfd.envs import Gym, MiniGrid
from lfd.errors import Interrupted, UserError
from lfd.stages.collect import Collect
from lfd.stages.experts import Script
from lfd.stages.workers import in_workers


def never():
    return False


def squares(stopping):
    def square(number):
        time.sleep(0.02 * (number % 3))  # results come out of order
        return number**2

    return square


def test_in_workers_results_are_in_order_and_tasks_are_taken_lazily():
    taken = []
    tasks = ((taken.append(number) or number,) for number in count())
    results = in_workers(squares, tasks, 3, never)
    assert [next(results) for _ in range(10)] == [number**2 for number in range(10)]
    results.close()
    assert len(taken) <= 10 + 2 * 3
    assert list(in_workers(squares, iter([(2,), (5,)]), 3, never)) == [4, 25]


def test_in_workers_errors_of_the_function_and_of_its_making_are_raised():
    def fails(stopping):
        def function(number):
            raise UserError(f"no {number}")

        return function

    def unmade(stopping):
        raise UserError("not made")

    for make, message in ((fails, "no 7"), (unmade, "not made")):
        with pytest.raises(UserError, match=message):
            next(in_workers(make, iter([(7,)]), 2, never))


def test_in_workers_killed_process_is_one_line():
    def dies(stopping):
        return lambda: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UserError, match="was killed, perhaps as memory ran out; repeat the command to go on"):
        next(in_workers(dies, iter([()]), 2, never))


def test_in_workers_stop_ends_running_functions():
    def waits(stopping):
        def function():
            while not stopping():
                time.sleep(0.01)
            raise Interrupted("stopped")

        return function

    began = time.monotonic()
    with pytest.raises(Interrupted, match="stopped while episodes were played"):
        next(in_workers(waits, iter([(), ()]), 2, lambda: time.monotonic() > began + 0.2))
    assert time.monotonic() < began + 1.5


ORPHANS = """
import os, signal, time
from lfd.stages.workers import in_workers
results = in_workers(lambda stopping: lambda: (time.sleep(0.2), os.getpid())[1], iter([()] * 100), 2, lambda: False)
print(*{next(results) for _ in range(4)}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_in_workers_processes_end_with_their_killed_parent():
    run = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=60, check=False)
    workers = [int(word) for word in run.stdout.split()]
    assert workers and run.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]


@pytest.mark.parametrize(
    ("script", "env", "settings"),
    [
        ("tests.experts:balance", Gym("CartPole-v1", max_episode_steps=30), {"transitions": 333, "epsilons": [0, 0.5]}),
        ("tests.experts:balance", Gym("CartPole-v1"), {"episodes": 11, "epsilon": 0.9, "max_return": 25}),
        ("babyai_bot", MiniGrid("BabyAI-GoToRedBallNoDists-v0", mission=False), {"episodes": 5, "num_envs": 2}),
    ],
)
def test_collect_of_a_script_is_equal_with_any_number_of_processes(script, env, settings, run_stages, monkeypatch):
    """And counts the same environment steps, though several processes play further than needed."""
    made = []
    for cores in (1, 2, 3):
        monkeypatch.setattr("lfd.hardware.Hardware.num_cores", lambda self, cores=cores: cores)
        monkeypatch.setattr("lfd.stages.collect.in_workers", in_workers if cores > 1 else None)
        pipeline = run_stages({"expert": Script(script), "demos": Collect("expert", **settings)}, env, f"{cores}")
        data = pipeline.product("demos")
        made.append((data.metadata["sha256"], pipeline.reports["demos"].summary["env_steps"]))
    assert made[0] == made[1] == made[2], made
    assert made[0][1] > 0 and np.all(np.asarray(data.columns["rewards"]) >= 0)
