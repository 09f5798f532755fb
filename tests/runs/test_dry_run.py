"""The dry run: its table of stages and estimates, and that it stores nothing."""

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from lfd.cli import main as cli
from lfd.learner.recording import RECORDS
from lfd.stages.timing import time_calls

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """A command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.01)

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


@pytest.mark.parametrize("sequences", ["windows", "streams", "episodes"])
def test_dry_run_times_steps_of_an_agent_with_a_memory(sequences: str, call: Call) -> None:
    """Its random batches, also those of the validation, are sequences."""
    code, output, errors = call(
        "dry_run=true", "algo=bc", "+memory@algo.agent.memory=gru", "algo.sequence_length=4", "algo.batch_size=16",
        f"algo.sources.demos.sequences={sequences}", "dataset=random",
    )  # fmt: skip
    assert code == 0, errors
    assert rows(output)["learn"][4:6] == ["to run", "3,000 gradient steps"]


def test_dry_run_lists_every_stage_and_stores_nothing(call: Call, tmp_path: Path) -> None:
    code, output, _ = call("dry_run=true", "expert.steps=2_000", "dataset.transitions=100_000", "learn.steps=3_000")
    table = rows(output)
    assert code == 0
    assert list(table) == ["expert", "demos", "learn", "score", "total"]
    assert table["demos"][1:3] == ["collect", "expert"] and table["demos"][4:6] == ["to run", "100,000 transitions"]
    assert table["score"][2] == "learn, expert, demos"
    assert table["learn"][5] == "3,000 gradient steps"
    # 4 numbers, an action, a reward and two flags a transition.
    assert size(table["demos"][-1]) == 100_000 * (16 + 8 + 4 + 2)
    parts = [seconds(table[name][6]) for name in ("expert", "demos", "learn", "score")]
    assert abs(sum(parts) - seconds(table["total"][1])) <= 2 and parts[2] >= 1
    assert "estimates: " in output
    assert list(tmp_path.iterdir()) == []


class Alone(CartPoleEnv):
    """An environment of which only one can be open."""

    is_open = False

    def __init__(self) -> None:
        assert not Alone.is_open, "the port is taken"
        Alone.is_open = True
        super().__init__()

    def close(self) -> None:
        Alone.is_open = False
        super().close()


gym.register("Alone-v0", Alone, max_episode_steps=50)


def test_dry_run_of_an_environment_that_is_open_once_uses_one(call: Call) -> None:
    assert rows(call("dry_run=true", "algo=dqn", "env=gym", "env.id=Alone-v0", "learn.steps=2_000")[1])["learn"][6]
    assert not Alone.is_open


def test_estimate_of_a_babyai_level_counts_the_limit_that_it_sets_at_its_reset(call: Call) -> None:
    assert "an episode counts as 64 steps" in call("dry_run=true", "env=babyai_gotolocal", "targets=[demos]")[1]


def test_estimate_grows_with_the_steps(call: Call) -> None:
    times = []
    for steps in (1_000, 100_000):
        output = call("dry_run=true", "dataset=random", "algo=bc", f"learn.steps={steps}", "learn.eval.every=0")[1]
        times.append(seconds(rows(output)["learn"][6]))
    assert times[1] > 20 * max(times[0], 0.5)


def test_stored_stage_has_no_estimate(call: Call) -> None:
    line = ["dataset=random", "algo=bc", "learn.steps=50", "dataset.transitions=300", "score.episodes=2"]
    assert call(*line)[0] == 0
    code, output, _ = call(*line, "dry_run=true")
    table = rows(output)
    assert code == 0 and "finished" in output and "total" not in table
    assert all("stored" in row and row[-3:-1] == ["–", "–"] for row in table.values())
    # A longer training continues from the shorter one, at its measured pace.
    _, output, _ = call(*line[:2], "learn.steps=200", *line[3:], "dry_run=true")
    assert "stored" in rows(output)["demos"] and "to run" in rows(output)["learn"]
    assert "(learn, score: the time of an earlier run)" in output


def test_disk_estimate_of_frames_counts_each_frame_once(call: Call, tmp_path: Path) -> None:
    line = ["env=pong", "algo=bc", "dataset=random", "dataset.transitions=1_000_000", "learn.eval.every=0"]
    code, output, _ = call(*line, "dry_run=true", "algo.batch_size=4", "score.episodes=1")
    assert code == 0
    assert 7e9 < size(rows(output)["demos"][-1]) < 8e9
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_sweep_prints_a_plan_or_a_refusal_per_job(call: Call, tmp_path: Path) -> None:
    line = ["-m", "dry_run=true", "dataset=random", "algo=bc", "learn.steps=50"]
    code, output, _ = call(*line, "dataset.epsilon=0,2")
    assert code == 2
    first, second = output.split("dataset.epsilon=2")
    assert "total" in first and "refused: " in second
    assert list(tmp_path.iterdir()) == []


def test_learned_reward_and_relabeled_data_have_estimates(call: Call) -> None:
    relabeled = ["+stage@relabeled=relabel", "relabeled.data=demos", "relabeled.reward=reward"]
    code, output, _ = call("algo=trex", "dry_run=true", *relabeled, "targets=[score,reward_eval,relabeled]")
    table = rows(output)
    assert code == 0 and table["reward"][1:3] == ["fit", "demos"] and table["total"][1] != "–"
    assert size(table["relabeled"][-1]) == size(table["demos"][-1]) > 0


def test_pretrained_policy_is_timed(call: Call, tmp_path: Path) -> None:
    assert call("algo=ppo", "learn.steps=8", "learn.eval.every=0", "score.episodes=1")[0] == 0
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    line = [
        f"expert.path={run}",
        "expert=pretrained",
        "ope=fqe",
        "fqe.frozen.policy=expert",
        "dataset=random",
        "targets=[fqe]",
    ]
    code, output, err = call(*line, "dry_run=true")
    assert code == 0, err
    assert rows(output)["fqe"][1:3] == ["ope", "demos, expert"] and seconds(rows(output)["fqe"][6]) >= 1


def test_timed_leaves_out_the_recorded_steps(monkeypatch):
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.01)
    calls = itertools.count()
    assert time_calls(lambda: time.sleep(0.1 if next(calls) < RECORDS + 1 else 0.0)).high < 0.05


def test_timed_gives_the_fastest_and_the_slowest_part(monkeypatch):
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.0)
    turns = itertools.count()
    span = time_calls(lambda: time.sleep(0.06 if next(turns) == RECORDS + 2 else 0.02))
    assert 0.02 <= span.low < 0.04 and 0.06 <= span.high < 0.1


def test_run_of_more_than_a_day_prints_settings_that_shorten_it(call: Call) -> None:
    _, output, _ = call("dry_run=true", "expert.steps=2_000_000_000", "learn.steps=100")
    line = output.splitlines()[-1]
    assert line.startswith("more than a day, most of it for expert: copy the expert of an earlier run by")
    assert "expert.steps" in line and "expert.eval.every" in line
    assert "more than a day" not in call("dry_run=true", "learn.steps=100", "expert.steps=100")[1]


def test_stage_of_unknown_time_makes_the_total_a_lower_bound(call: Call) -> None:
    line = ["algo=dagger", "expert=keyboard", "dry_run=true", "learn.stop.rounds=1"]
    assert "total  " in (output := call(*line)[1]) and "  ≥ " in output
