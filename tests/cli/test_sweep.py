"""Sweeps by whole command lines, in this process and in others: results, exit codes, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import OmegaConf

from lfd.cli import main as cli
from lfd.cli import sweep
from lfd.config.composer import Composer
from lfd.config.overrides import parsed
from lfd.errors import Interrupted, UserError
from lfd.hardware import Hardware
from lfd.stages.collect import Collect

TINY = [
    "env=cartpole", "expert.steps=40", "expert.eval.every=0", "expert.stop.score=null", "learn.steps=50",
    "learn.eval.every=0", "dataset.transitions=300", "score.episodes=2",
]  # fmt: skip
LONGER = [word for word in TINY if not word.startswith("expert.")] + ["dataset=random", "algo=bc"]
LONGER[LONGER.index("learn.steps=50")] = "learn.steps=1_500"
PARALLEL = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture(autouse=True)
def signals() -> Any:
    """Restores the signal handlers that a command line in this process replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Starts a command line in a new process and process group."""
    source = str(Path(sweep.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", "from lfd.cli.main import main; main()", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def here(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Runs a command line in this process; returns the exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return cli.run()


def wait_for_records(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Waits until a job has written its first record."""
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in folder.glob("outputs/runs/*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


def summary(folder: Path, output: str) -> dict[str, Any]:
    """The sweep.json that the last line of the output names."""
    content: dict[str, Any] = json.loads((folder / output.splitlines()[-1]).read_text())
    return content


def artifacts(folder: Path, kind: str) -> list[str]:
    """Keys of the stored artifacts of a kind."""
    return sorted(path.name for path in (folder / "outputs" / "artifacts").glob(f"{kind}-*"))


def test_sweep_jobs_share_the_expert_and_a_refused_job_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = here(monkeypatch, tmp_path, "-m", *TINY, "algo=bc,nosuch", "seed=0,1")
    output = capsys.readouterr()
    content = summary(tmp_path, output.out)
    assert code == 2
    assert [group["seeds"] for group in content["groups"]] == [["0", "1"], []]
    assert [failure["status"] for failure in content["failures"]] == ["refused", "refused"]
    assert "no option 'nosuch'" in content["failures"][0]["reason"]
    assert "refused: " in output.out and "no option 'nosuch'" in output.out
    assert len(artifacts(tmp_path, "fit")) == 3 and len(artifacts(tmp_path, "collect")) == 1
    assert (tmp_path / "outputs" / "sweeps").is_dir() and not (tmp_path / "multirun").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


def test_sweep_reuses_stored_jobs_and_the_same_command_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, tmp_path, "-m", *TINY, "algo=bc", "seed=0") == 0
    assert "1 job: 0 stored already, 1 to run" in capsys.readouterr().err
    line = ["-m", *TINY, "algo=bc,cql", "seed=0,1", *PARALLEL]
    large = start(tmp_path, *line)
    output, err = large.communicate()
    assert large.returncode == 0 and "4 jobs: 1 stored already, 3 to run, 2 in parallel" in err, err
    assert [group["seeds"] for group in summary(tmp_path, output)["groups"]] == [["0", "1"], ["0", "1"]]
    assert len(artifacts(tmp_path, "fit")) == 5 and len(artifacts(tmp_path, "collect")) == 1
    runs = tmp_path / "outputs" / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.[ph]*")}
    assert len(list(runs.iterdir())) == 4 and len(before) >= 8
    assert here(monkeypatch, tmp_path, *line) == 0
    again = capsys.readouterr()
    assert "4 jobs: 4 stored already, 0 to run" in again.err and again.out == output
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_internal_error_in_one_job_is_reported_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Collect.run

    def broken(self: Collect, lab: Any) -> Any:
        if self.seed == 1:
            raise ZeroDivisionError("mistake")
        return run(self, lab)

    monkeypatch.setattr(Collect, "run", broken)
    code = here(monkeypatch, tmp_path, "-m", *TINY[4:], "dataset=random", "algo=bc", "dataset.seed=1,2")
    content = summary(tmp_path, capsys.readouterr().out)
    assert code == 1
    assert [len(group["returns"]) for group in content["groups"]] == [0, 1]
    assert "internal error: ZeroDivisionError: mistake" in content["failures"][0]["reason"]
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/result.json")]
    (failed,) = [result for result in results if result["status"] == "failed"]
    assert "Traceback" in failed["traceback"] and failed["exit_code"] == 1


def test_environment_error_in_one_job_is_reported_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Gymnasium takes any value for gravity, and multiplies with it in the first step.
    line = [*TINY[4:], "env=pendulum", "dataset=random", "algo=bc", "+env.kwargs.g=heavy,9.81"]
    code = here(monkeypatch, tmp_path, "-m", *line)
    content = summary(tmp_path, capsys.readouterr().out)
    assert code == 2
    assert [len(group["returns"]) for group in content["groups"]] == [0, 1]
    reason = content["failures"][0]["reason"]
    assert reason.startswith("environment Pendulum-v1: step 1 of episode") and "failed with TypeError" in reason


class Pool:
    """A launcher in which one job kills its pool each time it is launched."""

    def __init__(self, victim: sweep.Job) -> None:
        self.victim, self.launched = victim, []

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list[Any]:
        self.launched.append(overrides)
        if self.victim.overrides in overrides:
            assert self.victim.folder is not None
            self.victim.folder.mkdir(exist_ok=True)
            running = {"status": "interrupted", "reason": "running", "exit_code": 75}
            (self.victim.folder / "result.json").write_text(json.dumps(running))
            raise TerminatedWorkerError("killed")
        return [Namespace(return_value={"status": "done", "exit_code": 0}) for _ in overrides]


def test_killed_worker_fails_its_own_job_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    composed: Any = [Namespace(line=[f"seed={seed}"]) for seed in range(3)]
    jobs = [sweep.Job(one.line, one, tmp_path / str(seed)) for seed, one in enumerate(composed)]
    # The result.json of an earlier sweep must not count.
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "result.json").write_text(json.dumps({"status": "failed", "reason": "old", "exit_code": 1}))
    os.utime(tmp_path / "2" / "result.json", (0, 0))
    pool = Pool(jobs[0])
    current = sweep.Sweep("abc", ("seed",), 2, tmp_path / ".stop", os.getpid())
    sweep._run(jobs, current, pool)
    assert pool.launched == [[["seed=0"], ["seed=1"], ["seed=2"]], [["seed=1"], ["seed=2"]]]
    results = [job.result or {} for job in jobs]
    assert [result["status"] for result in results] == ["failed", "done", "done"]
    assert results[0]["exit_code"] == 1 and "the process of the job died" in results[0]["reason"]


def test_ctrl_c_ends_a_sweep_with_75_and_the_same_command_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(tmp_path, "-m", *LONGER, "seed=0,1")
    wait_for_records(tmp_path, process)
    os.killpg(process.pid, signal.SIGINT)
    output, err = process.communicate(timeout=30)
    assert process.returncode == 75 and "Traceback" not in err, err
    reasons = [failure["reason"] for failure in summary(tmp_path, output)["failures"]]
    assert "stopped at gradient step" in reasons[0] and reasons[1] == "not started"
    (path,) = tmp_path.glob("outputs/runs/*/result.json")
    assert json.loads(path.read_text())["status"] == "interrupted"
    assert here(monkeypatch, tmp_path, "-m", *LONGER, "seed=0,1") == 0
    assert summary(tmp_path, capsys.readouterr().out)["groups"][0]["seeds"] == ["0", "1"]
    assert json.loads(path.read_text())["stages"]["learn"]["gradient_steps"] == 1_500


def test_signal_to_the_sweep_stops_jobs_in_all_processes(tmp_path: Path) -> None:
    process = start(tmp_path, "-m", *LONGER, "seed=0,1,2", *PARALLEL)
    wait_for_records(tmp_path, process)
    process.terminate()
    output, err = process.communicate(timeout=30)
    assert process.returncode == 75 and "Traceback" not in err, err
    reasons = [failure["reason"] for failure in summary(tmp_path, output)["failures"]]
    assert any("stopped at gradient step" in reason for reason in reasons) and reasons[2] == "not started"
    assert not list(tmp_path.glob("outputs/sweeps/*/.stop-*"))


HANGING = """
import time
import gymnasium as gym
class Hang(gym.Wrapper):
    def step(self, action):
        open("hanging", "w").close()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
gym.register("Hang-v0", lambda render_mode=None: Hang(gym.make("CartPole-v1")))
"""


@pytest.mark.parametrize("more", [[], PARALLEL])
def test_second_ctrl_c_ends_a_sweep_with_hanging_jobs(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    line = ["env=gym", "env.id=hanging:Hang-v0", "algo=bc", "dataset=random", "seed=0,1"]
    process = start(tmp_path, "-m", *line, *more)
    deadline = time.monotonic() + 60
    while not (tmp_path / "hanging").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    for _ in range(2):
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75 and "lfd: stopped at once; the same command continues\n" in err, err
    assert "Traceback" not in err, err
    with pytest.raises(ProcessLookupError, match="No such process"):  # no worker of the group is left
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def test_job_name_is_the_overrides_that_vary() -> None:
    current = sweep.Sweep("abc", ("env.kwargs.g", "seed"), 1, Path("stop"), 0)
    assert current.name(["algo=bc", "+env.kwargs.g=9.81", "seed=1"]) == "+env.kwargs.g=9.81 seed=1"


def test_combinations_vary_the_last_key_fastest() -> None:
    line = parsed(["algo=bc,cql", "learn.steps=5", "seed=range(2)"], sweep=True)
    assert sweep.combinations(line, None) == [
        ["algo=bc", "learn.steps=5", "seed=0"],
        ["algo=bc", "learn.steps=5", "seed=1"],
        ["algo=cql", "learn.steps=5", "seed=0"],
        ["algo=cql", "learn.steps=5", "seed=1"],
    ]
    with pytest.raises(UserError, match="list the values"):
        sweep.combinations(parsed(["algo.lr=interval(0,1)"], sweep=True), None)


def test_override_is_refused_only_if_no_job_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.0)
    assert here(monkeypatch, tmp_path, "-m", "algo=ppo,bc", "dataset=random", "dry_run=true") == 0
    capsys.readouterr()
    assert here(monkeypatch, tmp_path, "-m", "algo=ppo,dqn", "expert_algo.lr=1e-3", "dry_run=true") == 2
    assert "lfd: expert_algo.lr=1e-3: no stage of this run reads expert_algo.lr; " in capsys.readouterr().err


def test_override_of_a_stage_outside_the_run_prints_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.0)
    for line in (
        ["-m", "algo=ppo,dqn", "dataset=random"],
        ["algo=ppo", "dataset=random"],
        ["algo=ppo", "targets=[score]", "ope=fqe"],
    ):
        assert here(monkeypatch, tmp_path, *line, "dry_run=true") == 0
        assert f"{line[-1]}: no effect, as " in capsys.readouterr().err


def test_internal_error_while_a_job_is_composed_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compose_job = Composer.job

    def job(self: Composer, master: Any, overrides: list[str]) -> Any:
        return {}["nothing"] if "seed=1" in overrides else compose_job(self, master, overrides)

    monkeypatch.setattr(Composer, "job", job)
    line = [word for word in LONGER if not word.startswith("learn.steps")]
    assert here(monkeypatch, tmp_path, "-m", *line, "learn.steps=20", "seed=0,1") == 1
    content = summary(tmp_path, capsys.readouterr().out)
    assert content["groups"][0]["seeds"] == ["0"] and "internal error: KeyError" in content["failures"][0]["reason"]


def test_sweep_without_a_valid_job_is_refused_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, tmp_path, "-m", "learn.stepz=5", "seed=0,1") == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err == "lfd: learn.stepz: learn has no 'stepz'; did you mean 'steps'?\n"
    assert list(tmp_path.iterdir()) == []


def test_parallel_jobs_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run_experiment(experiment: Any, job: str, group: str, stop: Path) -> dict[str, Any]:
        seen.update(jobs=experiment.hardware.jobs, job=job, group=group)
        raise Interrupted("stopped")

    monkeypatch.setattr(sweep, "run_experiment", run_experiment)
    monkeypatch.setattr(sweep, "build", lambda *_: Namespace(hardware=Hardware()))
    settings = OmegaConf.create({"hydra": {"overrides": {"task": ["algo=bc", "seed=1"]}, "runtime": {"choices": {}}}})
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: settings.hydra))
    current = sweep.Sweep("abc", ("seed",), 3, tmp_path / ".stop", os.getpid())
    assert sweep.run_job(OmegaConf.create(), current)["status"] == "interrupted"
    assert seen == {"jobs": 3, "job": "seed=1", "group": "abc"}
    assert sweep.run_job(OmegaConf.create(), current)["reason"] == "not started"
    for cores, n_jobs, jobs, expected in [(8, -1, 3, 3), (8, -1, 16, 8), (8, 2, 16, 2)]:
        monkeypatch.setattr(sweep.joblib, "effective_n_jobs", lambda n, cores=cores: cores if n == -1 else n)
        master = OmegaConf.create({"hydra": {"launcher": {"n_jobs": n_jobs}}})
        assert sweep.num_parallel(master, jobs) == expected
    assert sweep.num_parallel(OmegaConf.create({"hydra": {"launcher": {}}}), 16) == 1
