"""metrics.jsonl, the truth of a run: one JSON object a line, of a stage and of the run that has it.

A record is flat: `stage` (name), `step` (gradient steps), `env_steps`, `seconds` (since the stage began), any of
`score`, `score_std` and `success_rate` (one evaluation), and metrics under the stage's name (`learn/td`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, final

from lfd.errors import Refused
from lfd.files import naming
from lfd.log.progress import tell
from lfd.log.sinks import Sink

Record = dict[str, Any]
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _encode(record: Mapping[str, Any]) -> bytes:
    """One line. JSON has no NaN or infinity, so they stand as the strings "NaN", "Infinity", "-Infinity"."""

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, str | bool):
            return value
        if isinstance(value, Integral):
            return int(value)
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"

    return json.dumps({key: plain(value) for key, value in record.items()}, allow_nan=False).encode() + b"\n"


def read_records(path: Path) -> list[Record]:
    """The records of a metrics.jsonl, non-finite numbers as floats again; without a torn last line; [] if no file.

    Refused if another line is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_decode(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _decode(line: bytes, where: str) -> Record:
    try:
        return {key: _number(value) for key, value in json.loads(line).items()}
    except (ValueError, AttributeError) as error:
        raise Refused(f"{where}: no record can be read there: remove the file and repeat the command") from error


def _number(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def renamed(records: Iterable[Mapping[str, Any]], stage: str) -> Iterator[Record]:
    """The records under the stage's name of today: a product is shared by runs that may call its stage differently."""
    for record in records:
        old = f"{record['stage']}/"
        yield {
            (f"{stage}/{key.removeprefix(old)}" if key.startswith(old) else key): value for key, value in record.items()
        } | {"stage": stage}


@final
class MetricsLog:
    """One stage's metrics.jsonl. Opening an existing file drops a last line that a crash tore."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; the line is flushed, so a killed process loses nothing that was written."""
        with naming(self.path):
            self._file.write(_encode(record))
            self._file.flush()

    def offset(self) -> int:
        """Bytes written so far, synced to disk first: what a checkpoint stores for `rewind`."""
        with naming(self.path):
            os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def rewind(self, offset: int) -> None:
        """Forget everything after a checkpoint's `offset`.

        Raises:
            Refused: the file is shorter than the checkpoint says, so part of the history is gone.
        """
        size = self._file.seek(0, os.SEEK_END)
        if size < offset:
            raise Refused(
                f"{self.path} has {size} bytes, its checkpoint expects {offset}: the history was damaged; "
                f"remove {self.path.parent} and run the same command again"
            )
        self._file.truncate(offset)

    def records(self) -> list[Record]:
        """All records, oldest first."""
        return read_records(self.path)

    def close(self) -> None:
        """Close the file; nothing more is written."""
        with naming(self.path):
            self._file.close()


@final
class RunLog:
    """The run's metrics.jsonl, the stages' histories one after the other, and the sinks that mirror it.

    The file starts anew in every process and `begin` writes again what is known, so no line is ever doubled. It is
    put in place by rename: of several processes on one run, each has a whole file and the path shows one of them.

    Args:
        path: the run folder's metrics.jsonl.
        sinks: mirrors. One that raises is dropped with one line on stderr; it never stops the run.
    """

    def __init__(self, path: Path, sinks: Sequence[Sink] = ()) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._file = fresh.open("wb")
        fresh.replace(path)
        self._sinks = list(sinks)

    def begin(self, stage: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Replay what a stored or resumed stage has already recorded, under the stage's name of today."""
        for record in renamed(records, stage):
            self.write(record)

    def write(self, record: Record) -> None:
        """Append one record and hand it to the sinks."""
        with naming(self.path):
            self._file.write(_encode(record))
            self._file.flush()
        self._tell(lambda sink: sink.write(record))

    def film(self, stage: str, path: Path) -> None:
        """Hand a stage's film (a GIF) to the sinks."""
        self._tell(lambda sink: sink.film(stage, path))

    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """Close the file and the sinks; `status` is "done", "interrupted" or "failed", `result` as in result.json."""
        with naming(self.path):
            self._file.close()
        self._tell(lambda sink: sink.finish(status, result))

    def _tell(self, call: Callable[[Sink], None]) -> None:
        for sink in tuple(self._sinks):
            try:
                call(sink)
            # A sink is other people's code on a network or a disk: whatever it raises, the run is worth more.
            except Exception as error:
                self._sinks.remove(sink)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                tell(f"{sink.name} stopped working and is left out from here on: {reason}")
