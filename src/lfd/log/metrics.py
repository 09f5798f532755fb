"""metrics.jsonl: the metrics of a stage and of a run, one JSON object per line.

A record is flat: `stage` (name), `step` (gradient steps), `env_steps`, `seconds` (since the stage began), `demo_steps`
(rows that a training stage drew from datasets), any of `score`, `score_std` and `success_rate` (one evaluation), and
metrics under the stage's name: those of a loss by its row and field, `learn/iql/critic_loss`, on held-out data
`learn/validation/iql/critic_loss`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, final

from lfd.errors import UserError
from lfd.files import add_path_to_errors
from lfd.log.progress import print_message
from lfd.log.sinks import Sink

Record = dict[str, Any]
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _encode(record: Mapping[str, Any]) -> bytes:
    """One line of JSON. NaN and infinities become the strings "NaN", "Infinity", "-Infinity"."""

    def to_json_value(value: Any) -> Any:
        if value is None or isinstance(value, str | bool):
            return value
        if isinstance(value, Integral):
            return int(value)
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"

    return json.dumps({key: to_json_value(value) for key, value in record.items()}, allow_nan=False).encode() + b"\n"


def read_records(path: Path) -> list[Record]:
    """Reads the records of a metrics.jsonl; [] if there is no file.

    Non-finite numbers are floats again; an incomplete last line is left out. Raises UserError for another damaged line.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_decode(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _decode(line: bytes, location: str) -> Record:
    try:
        return {key: _number(value) for key, value in json.loads(line).items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{location}: expected a record, got a damaged line; remove the file and repeat the command"
        ) from error


def _number(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def rename_stage(records: Iterable[Mapping[str, Any]], stage: str) -> Iterator[Record]:
    """The records under the name `stage`, as a stored stage may have another name in another run."""
    for record in records:
        old_prefix = f"{record['stage']}/"
        yield {
            (f"{stage}/{key.removeprefix(old_prefix)}" if key.startswith(old_prefix) else key): value
            for key, value in record.items()
        } | {"stage": stage}


@final
class MetricsLog:
    """The metrics.jsonl of one stage. Opening an existing file removes an incomplete last line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record and flushes it, so that a killed process loses no record."""
        with add_path_to_errors(self.path):
            self._file.write(_encode(record))
            self._file.flush()

    def offset(self) -> int:
        """Size of the file in bytes, after syncing it to disk; checkpoints store it for `rewind`."""
        with add_path_to_errors(self.path):
            os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def rewind(self, offset: int) -> None:
        """Removes everything after a checkpoint's `offset` in bytes. Raises UserError if the file is shorter."""
        size = self._file.seek(0, os.SEEK_END)
        if size < offset:
            raise UserError(
                f"{self.path}: expected at least {offset} bytes, as its checkpoint says, got {size}; remove "
                f"{self.path.parent} and repeat the command"
            )
        self._file.truncate(offset)

    def records(self) -> list[Record]:
        """All records, oldest first."""
        return read_records(self.path)

    def close(self) -> None:
        """Closes the file."""
        with add_path_to_errors(self.path):
            self._file.close()


@final
class RunLog:
    """The metrics.jsonl of a run, the records of its stages one after the other, and the sinks that mirror it.

    Every process writes a new file, and `replay` writes the records of earlier processes again, so that no line stands
    twice. The file is put in place by a rename: of several processes of one run, each has a whole file and the path is
    one of them. A sink that raises an error is dropped with one line on stderr; it never stops the run.
    """

    def __init__(self, path: Path, sinks: Sequence[Sink] = ()) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._file = temporary.open("wb")
        temporary.replace(path)
        self._sinks = list(sinks)

    def replay(self, stage: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes the records of a stored or resumed stage again, under the name `stage`."""
        for record in rename_stage(records, stage):
            self.write(record)

    def write(self, record: Record) -> None:
        """Appends one record and passes it to the sinks."""
        with add_path_to_errors(self.path):
            self._file.write(_encode(record))
            self._file.flush()
        self._call_sinks(lambda sink: sink.write(record))

    def film(self, stage: str, path: Path) -> None:
        """Passes a stage's film (a GIF) to the sinks."""
        self._call_sinks(lambda sink: sink.film(stage, path))

    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """Closes the file and the sinks; `status` is "done", "interrupted" or "failed", `result` as in result.json."""
        with add_path_to_errors(self.path):
            self._file.close()
        self._call_sinks(lambda sink: sink.finish(status, result))

    def _call_sinks(self, call: Callable[[Sink], None]) -> None:
        for sink in tuple(self._sinks):
            try:
                call(sink)
            # a sink is foreign code on a network or a disk; its errors must not stop the run
            except Exception as error:
                self._sinks.remove(sink)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                print_message(f"{sink.name} failed and is not used any more in this run: {reason}")
