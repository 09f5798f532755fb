"""Sinks: each record is sent once, also after a resume; nothing uses the network offline."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from wandb.proto.wandb_internal_pb2 import Record as WandbRecord  # type: ignore[attr-defined]

from lfd.errors import UserError
from lfd.log import Logger, NoLogger, RunInfo, RunLog, Tensorboard, Wandb
from lfd.log.loggers import WandbMode

RESULT = {
    "scores": {"learn": {"return_mean": 498.0}},
    "stages": {"demos": {"metadata": {"sha256": "ab12"}}, "learn": {}},
}


def record(step: int, stage: str = "learn", env_steps: int = 0) -> dict[str, Any]:
    return {
        "stage": stage,
        "step": step,
        "env_steps": env_steps,
        "seconds": 0.1,
        f"{stage}/dqn/critic_loss": 1 / (1 + step),
    }


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Every address that something tried to reach, other than this machine's own unix sockets."""
    dialled: list[object] = []
    connect = socket.socket.connect

    def guard(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            dialled.append(address)
            raise OSError("no network in this test")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guard)
    yield dialled
    wandb.teardown()


def film(folder: Path) -> Path:
    path = folder / "film.gif"
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def session(folder: Path, logger: Logger, known: int, until: int, status: str) -> None:
    log = RunLog(folder / "metrics.jsonl", logger.open(RunInfo(folder, {"algo": {"lr": 1e-3}}, group="sweep-7")))
    log.replay("learn", [record(step) for step in range(known)])
    for step in range(known, until):
        log.write(record(step))
    if status == "done":
        log.film("score", film(folder))
    log.finish(status, RESULT if status == "done" else {})


def chunks(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format in blocks of 32 KiB, after a header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def sent(folder: Path) -> list[WandbRecord]:
    """What the offline sessions wrote for `wandb sync`, in order."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [WandbRecord.FromString(chunk) for path in files for chunk in chunks(path.read_bytes())]


def test_wandb_sink_offline_after_a_resume_has_each_step_once_without_network(
    tmp_path: Path, offline: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    logger = Wandb(WandbMode.offline, "p", "team", ["cql", "cartpole"])
    session(tmp_path, logger, known=0, until=4, status="failed")
    session(tmp_path, logger, known=2, until=6, status="done")
    session(tmp_path, logger, known=6, until=6, status="done")
    assert offline == []
    assert capfd.readouterr() == ("", "")

    records = sent(tmp_path)
    runs = [each.run for each in records if each.HasField("run")]
    assert {run.run_id for run in runs} == {json.loads((tmp_path / "wandb.json").read_text())["id"]}
    assert {(run.run_group, run.project, tuple(run.tags)) for run in runs} == {("sweep-7", "p", ("cql", "cartpole"))}
    assert {run.display_name for run in runs} == {tmp_path.name}

    rows = [
        {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in each.history.item}
        for each in records
        if each.HasField("history")
    ]
    assert [json.loads(row["learn/step"]) for row in rows if "learn/step" in row] == [0, 1, 2, 3, 4, 5]
    assert [json.loads(row["_step"]) for row in rows] == list(range(7)), "rows of two sessions must not overlap"
    assert "score/film" in rows[-1]

    assert [each.exit.exit_code for each in records if each.HasField("exit")] == [1, 0]
    config = {item.key or item.nested_key[0]: item.value_json for each in records for item in each.config.update}
    config |= {item.key or item.nested_key[0]: item.value_json for run in runs for item in run.config.update}
    assert json.loads(config["metadata"]) == {"demos": {"sha256": "ab12"}} and json.loads(config["algo"]) == {
        "lr": 1e-3
    }
    summary = {
        item.key or "/".join(item.nested_key): item.value_json for each in records for item in each.summary.update
    }
    assert summary["scores/learn/return_mean"] == "498.0"


def test_wandb_sink_x_axis_is_env_steps_only_for_interacting_stages(tmp_path: Path, offline: list[object]) -> None:
    log = RunLog(tmp_path / "metrics.jsonl", Wandb(WandbMode.offline).open(RunInfo(tmp_path)))
    log.replay("expert", [record(0, "expert"), record(1, "expert", env_steps=8)])
    log.replay("learn", [record(0), record(1)])
    log.finish("interrupted", {})
    records = sent(tmp_path)
    axes = {each.metric.glob_name: each.metric.step_metric for each in records if each.HasField("metric")}
    assert axes == {"expert/*": "expert/env_steps", "learn/*": "learn/step"}
    assert [each.exit.exit_code for each in records if each.HasField("exit")] == [75]


def test_wandb_online_without_a_key_is_refused_when_opened(
    tmp_path: Path, offline: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match="logger.mode=offline"):
        Wandb().open(RunInfo(tmp_path))
    assert offline == []


def test_logger_none_or_disabled_has_no_sink(tmp_path: Path) -> None:
    assert NoLogger().open(RunInfo(tmp_path)) == []
    assert Wandb(WandbMode.disabled).open(RunInfo(tmp_path)) == []


def test_tensorboard_sink_after_a_resume_has_each_point_once(tmp_path: Path) -> None:
    session(tmp_path, Tensorboard(), known=0, until=4, status="failed")
    session(tmp_path, Tensorboard(), known=2, until=6, status="done")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("learn/dqn/critic_loss")] == [
        (step, pytest.approx(1 / (1 + step))) for step in range(6)
    ]
    [image] = events.Images("score/film")
    assert image.encoded_image_string == (tmp_path / "film.gif").read_bytes() and (image.width, image.height) == (8, 6)


def test_tensorboard_not_installed_is_refused_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfd.log.loggers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[tensorboard\]"'):
        Tensorboard().open(RunInfo(tmp_path))


def test_import_of_log_imports_no_sink_package() -> None:
    code = "import sys, lfd.log; print(sorted({'wandb', 'tensorboard', 'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
