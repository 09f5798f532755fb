"""The run folder of a single run, however the run ends."""

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lfd.cli import main as cli
from lfd.errors import Interrupted, LabelsNeeded, UserError
from lfd.pipeline import TrainingPipeline
from lfd.runs.run import result_of_error

TINY = ["dataset=random", "algo=bc", "dataset.transitions=300", "score.episodes=2", "learn.eval.every=20"]
Call = Callable[..., int]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command line in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["run.py", *TINY, *arguments])
        return cli.run()

    return run


def only_run(folder: Path) -> Path:
    (run,) = (folder / "outputs" / "runs").iterdir()
    return run


def result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((only_run(folder) / "result.json").read_text())
    return content


def test_run_writes_its_folder_and_the_same_command_rewrites_nothing(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("learn.steps=60") == 0
    output = capsys.readouterr()
    run = only_run(tmp_path)
    names = {"config.yaml", "overrides.yaml", "provenance.json", "metrics.jsonl", "result.json", "curves.png"}
    assert {path.name for path in run.iterdir()} == names | {"report.html"}
    assert output.out.splitlines()[-1] == f"outputs/runs/{run.name}/result.json"
    first = result(tmp_path)
    assert (first["status"], first["exit_code"], first["overrides"]) == ("done", 0, [*TINY, "learn.steps=60"])
    assert list(first["scores"]) == ["learn", "demos", "random"]
    assert [stage["cached"] for stage in first["stages"].values()] == [False, False, False]
    assert first["scores"]["learn"]["last5_mean"] is not None
    before = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.name != "result.json"}
    assert call("learn.steps=60") == 0
    again = capsys.readouterr()
    assert again.out == output.out and "everything is stored already" in again.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(stage["cached"] for stage in result(tmp_path)["stages"].values())


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("env=gym env.id=CartPole-v1", "bc-CartPole-v1-s0"),
        (
            "env=gym env.id=gymnasium.envs.classic_control:CartPole-v1",
            "bc-gymnasium.envs.classic_control-CartPole-v1-s0",
        ),
        ("env=acrobot", "bc-acrobot-s0"),
    ],
)
def test_run_folder_contains_the_name_of_the_environment(
    line: str, name: str, call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.0)
    assert call(*line.split(), "dry_run=true") == 0
    assert f"outputs/runs/{name}-" in capsys.readouterr().out


def test_run_in_a_foreign_environment_with_dict_observations_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign.py").write_text(
        "import gymnasium as gym\n"
        "class Parted(gym.ObservationWrapper):\n"
        "    def __init__(self, render_mode=None):\n"
        "        super().__init__(gym.make('CartPole-v1'))\n"
        "        parts = {name: gym.spaces.Box(-5, 5, (2,)) for name in ('cart', 'pole')}\n"
        "        self.observation_space = gym.spaces.Dict(parts)\n"
        "    def observation(self, obs):\n"
        "        return {'cart': obs[:2], 'pole': obs[2:]}\n"
        "gym.register('Parted-v0', Parted, max_episode_steps=50)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    line = (
        "env=gym env.id=foreign:Parted-v0 algo=cql expert.steps=40 expert.eval.every=0 expert.stop.score=null "
        "dataset.transitions=200 learn.steps=20 learn.eval.every=10 score.episodes=2"
    )
    monkeypatch.setattr(sys, "argv", ["run.py", *line.split()])
    assert cli.run() == 0
    done = result(tmp_path)
    assert done["run"].startswith("cql-foreign-Parted-v0-s0-") and set(done["scores"]) >= {"learn", "expert", "demos"}


def test_deleted_report_is_written_again(call: Call, tmp_path: Path) -> None:
    assert call("learn.steps=20") == 0
    report = only_run(tmp_path) / "report.html"
    report.unlink()
    assert call("learn.steps=20") == 0
    assert report.exists() and all(stage["cached"] for stage in result(tmp_path)["stages"].values())


def test_failed_run_stores_its_reason_and_its_artifacts(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call("learn.steps=400", "+optim@algo.optim.policy=optim", "algo.optim.policy.optimizer=sgd", "algo.lr=1000")
        == 4
    )
    failed = result(tmp_path)
    assert failed["status"] == "failed" and "not finite" in failed["reason"] and failed["exit_code"] == 4
    assert failed["reason"] in " ".join(capsys.readouterr().err.split())
    assert list(failed["stages"]) == ["demos"] and failed["scores"] == {}


def test_running_run_is_stored_as_interrupted(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def run(*_: Any, **__: Any) -> None:
        seen.append(result(tmp_path))
        raise Interrupted("learn stopped at gradient step 7")

    monkeypatch.setattr(TrainingPipeline, "run", run)
    assert call("learn.steps=20") == 75
    assert seen[0]["status"] == "interrupted" and "running" in seen[0]["reason"]
    assert result(tmp_path)["reason"] == "learn stopped at gradient step 7"


def test_result_of_error_has_status_and_exit_code() -> None:
    results = [result_of_error(error) for error in (Interrupted("a"), LabelsNeeded("b"), UserError("c"), KeyError("d"))]
    assert [result["status"] for result in results] == ["interrupted", "interrupted", "failed", "failed"]
    assert [result["exit_code"] for result in results] == [75, 3, 2, 1]
    assert ["traceback" in result for result in results] == [False, False, False, True]
    assert result_of_error(KeyboardInterrupt())["exit_code"] == 75


def test_refused_run_writes_nothing(call: Call, tmp_path: Path) -> None:
    assert call("learn.steps=20", "score.policies=[unknown]") == 2
    assert call("learn.steps=20", "learn.init_from=demos") == 2
    assert list(tmp_path.iterdir()) == []


def test_chosen_options_are_stored_in_result_and_configuration(call: Call, tmp_path: Path) -> None:
    assert call("learn.steps=20") == 0
    options = result(tmp_path)["options"]
    chosen = {"algo": "bc", "env": "cartpole", "dataset": "random", "expert": "trained", "pipeline": "train"}
    assert options.items() >= (chosen | {"expert_algo": "ppo", "ope": "none", "logger": "none"}).items()
    config = (only_run(tmp_path) / "config.yaml").read_text()
    assert yaml.safe_load(config)["options"] == options
    # A user copies it into an experiment file.
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "again.yaml").write_text(f"# @package _global_\noptions: {options}\nseed: 0\n")
    assert call("learn.steps=20", "--config-dir", "mine", "experiment=again") == 0
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 1


def test_values_of_environment_variables_are_not_stored(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "outputs"))
    monkeypatch.setenv("MY_TOKEN", "xyzzy-plugh")
    assert call("learn.steps=20", "outputs=${oc.env:SCRATCH}", "algo.losses.bc.every=${oc.env:ONE,1}") == 0
    texts = {path.name: path.read_text() for path in only_run(tmp_path).iterdir() if path.suffix != ".png"}
    assert "outputs: ${oc.env:SCRATCH}" in texts["config.yaml"]


def test_error_on_a_removed_disk_is_reported_as_itself(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any, **__: Any) -> None:
        shutil.rmtree(tmp_path / "outputs")
        raise OSError(errno.EROFS, "Read-only file system", "outputs/artifacts/x")

    monkeypatch.setattr(TrainingPipeline, "run", run)
    assert call("learn.steps=20") == 2
    err = capsys.readouterr().err
    assert err.startswith("lfd: outputs/artifacts/x cannot be used (Read-only file system)") and err.count("\n") == 1


def test_temporary_files_of_a_killed_process_are_removed(call: Call, tmp_path: Path) -> None:
    assert call("learn.steps=20") == 0
    run = only_run(tmp_path)
    for name in ("result.json.999999999.tmp", "metrics.jsonl.999999998.tmp", "report.html"):
        (run / name).write_text("")
    (run / "report.html").unlink()
    assert call("learn.steps=20") == 0
    assert not list(run.glob("*.tmp"))
