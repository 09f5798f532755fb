"""The dry run: what it says, and that it leaves nothing behind."""

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from lfd import cli
from lfd.capture import RECORDS
from lfd.trials import timed

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """A command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lfd.trials.SECONDS", 0.01)

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        code = cli.run()
        told = capsys.readouterr()
        return code, told.out, told.err

    return called


def rows(output: str) -> dict[str, list[str]]:
    """Cells of the table by stage; columns are parted by two spaces."""
    lines = output.split("\n\n")[0].splitlines()[2:]
    return {line.split()[0]: [cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines}


def seconds(cell: str) -> int:
    """The high end of a time."""
    total = 0
    cell = cell.rpartition(" .. ")[2]
    for part in cell.split(":"):
        total = 60 * total + int(part)
    return total


def size(cell: str) -> float:
    return float(cell[:-2]) * {"k": 1e3, "M": 1e6, "G": 1e9}[cell[-2]]


def test_it_shows_every_stage_and_leaves_nothing(call: Call, tmp_path: Path) -> None:
    code, output, _ = call("dry_run=true", "expert.steps=2_000", "dataset.transitions=100_000", "learn.steps=3_000")
    table = rows(output)
    assert code == 0
    assert list(table) == ["expert", "demos", "learn", "score", "total"]
    assert table["demos"][1:3] == ["collect", "expert"] and table["demos"][4:6] == ["to make", "100,000 transitions"]
    assert table["score"][2] == "learn, expert, demos"
    assert table["learn"][5] == "3,000 gradient steps"
    # 4 numbers, an action, a reward and two flags a transition.
    assert size(table["demos"][-1]) == 100_000 * (16 + 8 + 4 + 2)
    parts = [seconds(table[name][6]) for name in ("expert", "demos", "learn", "score")]
    assert abs(sum(parts) - seconds(table["total"][1])) <= 2 and parts[2] >= 1
    assert "estimates: " in output
    assert list(tmp_path.iterdir()) == []


class Alone(CartPoleEnv):
    """Of which one may be open."""

    is_open = False

    def __init__(self) -> None:
        assert not Alone.is_open, "the port is taken"
        Alone.is_open = True
        super().__init__()

    def close(self) -> None:
        Alone.is_open = False
        super().close()


gym.register("Alone-v0", Alone, max_episode_steps=50)


def test_an_environment_of_which_one_may_be_open_is_tried_alone(call: Call) -> None:
    assert rows(call("dry_run=true", "algo=dqn", "env=gym", "env.id=Alone-v0", "learn.steps=2_000")[1])["learn"][6]
    assert not Alone.is_open


def test_more_steps_take_longer(call: Call) -> None:
    times = []
    for steps in (1_000, 100_000):
        output = call("dry_run=true", "dataset=random", "algo=bc", f"learn.steps={steps}", "learn.check.every=0")[1]
        times.append(seconds(rows(output)["learn"][6]))
    assert times[1] > 20 * max(times[0], 0.5)


def test_what_is_stored_takes_nothing(call: Call) -> None:
    line = ["dataset=random", "algo=bc", "learn.steps=50", "dataset.transitions=300", "score.episodes=2"]
    assert call(*line)[0] == 0
    code, output, _ = call(*line, "dry_run=true")
    table = rows(output)
    assert code == 0 and "finished" in output and "total" not in table
    assert all("stored" in row and row[-3:-1] == ["–", "–"] for row in table.values())
    # A longer version goes on from the shorter, at the pace that this one had.
    _, output, _ = call(*line[:2], "learn.steps=200", *line[3:], "dry_run=true")
    assert "stored" in rows(output)["demos"] and "to make" in rows(output)["learn"]
    assert "(learn, score: as long as an earlier one took)" in output


def test_frames_are_counted_once(call: Call, tmp_path: Path) -> None:
    line = ["env=pong", "algo=bc", "dataset=random", "dataset.transitions=1_000_000", "learn.check.every=0"]
    code, output, _ = call(*line, "dry_run=true", "algo.batch=4", "score.episodes=1")
    assert code == 0
    assert 7e9 < size(rows(output)["demos"][-1]) < 8e9
    assert list(tmp_path.iterdir()) == []


def test_of_a_sweep_every_job_has_its_plan_and_its_refusal(call: Call, tmp_path: Path) -> None:
    line = ["-m", "dry_run=true", "dataset=random", "algo=bc", "learn.steps=50"]
    code, output, _ = call(*line, "dataset.epsilon=0,2")
    assert code == 2
    first, second = output.split("dataset.epsilon=2")
    assert "total" in first and "refused: " in second
    assert list(tmp_path.iterdir()) == []


def test_a_learnt_reward_and_what_is_made_of_it_are_estimated(call: Call) -> None:
    relabelled = ["+stage@relabelled=relabel", "relabelled.data=demos", "relabelled.reward=reward"]
    code, output, _ = call("algo=trex", "dry_run=true", *relabelled, "targets=[score,inspect,relabelled]")
    table = rows(output)
    assert code == 0 and table["reward"][1:3] == ["fit", "demos"] and table["total"][1] != "–"
    assert size(table["relabelled"][-1]) == size(table["demos"][-1]) > 0


def test_what_records_a_step_before_it_repeats_it_does_not_count(monkeypatch):
    monkeypatch.setattr("lfd.trials.SECONDS", 0.01)
    calls = itertools.count()
    assert timed(lambda: time.sleep(0.1 if next(calls) < RECORDS + 1 else 0.0)).high < 0.05


def test_a_trial_tells_its_slowest_and_its_fastest_part(monkeypatch):
    monkeypatch.setattr("lfd.trials.SECONDS", 0.0)
    turns = itertools.count()
    span = timed(lambda: time.sleep(0.06 if next(turns) == RECORDS + 2 else 0.02))
    assert 0.02 <= span.low < 0.04 and 0.06 <= span.high < 0.1


def test_more_than_a_day_is_told_with_ways_out(call: Call) -> None:
    _, output, _ = call("dry_run=true", "expert.steps=2_000_000_000", "learn.steps=100")
    told = output.splitlines()[-1]
    assert told.startswith("more than a day, most of it for expert: take it from an earlier run by expert=pretrained")
    assert "expert.steps" in told and "expert.check.every" in told
    assert "more than a day" not in call("dry_run=true", "learn.steps=100", "expert.steps=100")[1]


def test_a_stage_of_unknown_length_makes_the_total_a_lower_bound(call: Call) -> None:
    line = ["algo=dagger", "expert=keyboard", "dry_run=true", "learn.stop.rounds=1"]
    assert "total  " in (output := call(*line)[1]) and "  ≥ " in output
