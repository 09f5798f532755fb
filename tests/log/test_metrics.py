"""metrics.jsonl: records read back equal, rewinding, damaged files, several processes and failing sinks."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lfd.errors import UserError
from lfd.log import MetricsLog, RunLog, Sink, read_records


def record(step: int, stage: str = "learn", **more: Any) -> dict[str, Any]:
    return {"stage": stage, "step": step, "env_steps": 0, "seconds": 0.5, **more}


def test_metrics_log_records_read_back_equal_and_are_strict_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(
        record(1)
        | {"learn/dqn/critic_loss": np.float32(0.5), "learn/q": torch.tensor(2.0), "n": np.int64(3), "none": None}
    )
    log.write(record(2) | {"learn/dqn/critic_loss": math.nan, "learn/q": math.inf, "n": -math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    first, second = log.records()
    assert (first["learn/dqn/critic_loss"], first["learn/q"], first["n"], first["none"]) == (0.5, 2.0, 3, None)
    assert math.isnan(second["learn/dqn/critic_loss"]) and second["learn/q"] == math.inf and second["n"] == -math.inf


def test_metrics_log_rewind_removes_later_records_and_appends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write(record(1))
    offset = log.offset()
    log.write(record(2))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"stage": "learn", "st')

    log = MetricsLog(path)
    assert [row["step"] for row in log.records()] == [1, 2]
    log.rewind(offset)
    log.write(record(2, again=True))
    assert [(row["step"], row.get("again")) for row in log.records()] == [(1, None), (2, True)]


def test_metrics_log_rewind_of_a_short_file_is_refused(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(record(1))
    with pytest.raises(UserError, match="expected at least .* bytes"):
        log.rewind(10_000)


def test_read_records_of_an_incomplete_line_or_no_file_leaves_it_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == []
    path.write_bytes(b'{"stage": "a", "step": 1}\n{"stage"')
    assert read_records(path) == [{"stage": "a", "step": 1}]


@pytest.mark.parametrize("line", [b"{", b"[]"])
def test_read_records_of_a_damaged_line_is_refused_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"stage": "a"}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: expected a record"):
        read_records(path)


class Recorder(Sink):
    name = "recorder"

    def __init__(self, breaks: bool = False) -> None:
        self.breaks = breaks
        self.calls: list[str] = []

    def write(self, record: object) -> None:
        self.calls.append("write")
        if self.breaks:
            raise OSError("no space\nleft on device")

    def film(self, stage: str, path: Path) -> None:
        self.calls.append(f"film {stage}")

    def finish(self, status: str, result: object) -> None:
        self.calls.append(f"finish {status}")


def test_run_log_of_a_second_process_repeats_no_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    expert, learn = [record(1, "expert"), record(2, "expert")], [record(1), record(2), record(3)]
    first = RunLog(path)
    first.replay("expert", [])
    for row in expert:
        first.write(row)
    first.replay("learn", [])
    first.write(learn[0])
    first.write(learn[1])

    second = RunLog(path)
    second.replay("expert", expert)
    second.replay("learn", learn[:1])
    for row in learn[1:]:
        second.write(row)
    second.finish("done", {})
    assert read_records(path) == [*expert, *learn]
    first.write(learn[2])
    assert read_records(path) == [*expert, *learn], "an earlier process must not write into the later one's file"


def test_run_log_replay_renames_the_stage(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "metrics.jsonl")
    log.replay("teacher", [record(1, "expert", **{"expert/dqn/critic_loss": 0.1, "score": 9.0})])
    [row] = read_records(tmp_path / "metrics.jsonl")
    assert row["stage"] == "teacher" and row["teacher/dqn/critic_loss"] == 0.1 and row["score"] == 9.0
    assert not any(key.startswith("expert/") for key in row)


def test_run_log_failing_sink_is_reported_once_and_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, sound = Recorder(breaks=True), Recorder()
    log = RunLog(tmp_path / "metrics.jsonl", [broken, sound])
    log.replay("learn", [record(1)])
    log.write(record(2))
    log.film("score", tmp_path / "film.gif")
    log.finish("failed", {})
    assert capsys.readouterr().err == "recorder failed and is not used any more in this run: no space\n"
    assert broken.calls == ["write"]
    assert sound.calls == ["write", "write", "film score", "finish failed"]
    assert len(read_records(tmp_path / "metrics.jsonl")) == 2
