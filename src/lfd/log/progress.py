"""Live progress of a run, for a person at a terminal and for a log file."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from time import monotonic
from typing import TextIO, final

_BAR = 20  # characters, where the terminal has room
_CLEAR = "\r\x1b[K"  # back to the line's start, and erase it


def clock(seconds: float) -> str:
    """0:07, 12:30, 3:04:05, 2 d 03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(number: float) -> str:
    """Three significant digits: 0.52, 431, 12.4k, 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def tell(line: str) -> None:
    """Print a line on stderr; at a terminal it takes the place of a progress line, which is drawn anew below it."""
    print((_CLEAR if sys.stderr.isatty() else "") + line, file=sys.stderr)


@final
class Progress:
    """Progress of every stage and of the whole pipeline.

    At a terminal one line is rewritten; elsewhere, and for a job of a sweep (whose neighbours share the terminal),
    there is a line at most every ten seconds. A stage's end and a stored product always have their line.

    Args:
        stages: every stage that the run needs, in order, and the seconds that it is expected to take: 0 if its product
            is stored, None where nothing tells. What is left of the run is then a lower bound, and is shown as that.
        stream: where to write.
        job: the name of this job in a sweep; "" for a single run.
    """

    def __init__(self, stages: Sequence[tuple[str, float | None]], stream: TextIO | None = None, job: str = "") -> None:
        self._stream = stream or sys.stderr
        self._names, self._expected = [name for name, _ in stages], dict(stages)
        self._width = max((len(name) for name in self._names), default=0)
        self._live = self._stream.isatty() and not job
        self._prefix = f"{job}: " if job else ""
        self._interval = 0.1 if self._live else 10.0
        self._born = monotonic()
        self._shown = False
        self._name = ""

    def stage(self, name: str, total: int | None, unit: str = "steps") -> None:
        """A stage starts, or goes on from a checkpoint; `total` is counted in `unit`."""
        self._name, self._total, self._unit = name, total, unit
        self._done, self._score = 0, math.nan
        self._first: tuple[float, int] | None = None
        self._began = monotonic()
        self._due = self._began + (0.0 if self._live else self._interval)

    def update(self, done: int, score: float | None = None) -> None:
        """`done` of the total, counted from the stage's very beginning; `score` if new. Free while no line is due."""
        now = monotonic()
        self._done = done
        if score is not None:
            self._score = score
        if self._first is None:
            self._first = (now, done)
        if now >= self._due:
            self._due = now + self._interval
            self._draw(now)

    def cached(self, name: str) -> None:
        """The stage's product exists already."""
        self._print(f"{self._head(name)}  stored already")

    def end(self, seconds: float) -> None:
        """The stage is done; `seconds` is its time over all sessions that worked on it."""
        parts = [f"{self._done:,} {self._unit} in {clock(seconds)}"] if self._done else [f"done in {clock(seconds)}"]
        self._print("  ".join([self._head(self._name), *parts, *self._score_part()]))
        self._name = ""

    def close(self) -> None:
        """Leave the cursor on a fresh line; the run may have been stopped in the middle."""
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()
            self._shown = False

    def _head(self, name: str) -> str:
        place = f"{self._names.index(name) + 1}/{len(self._names)}" if name in self._names else "-"
        return f"{self._prefix}[{place}] {name:<{self._width}}"

    def _score_part(self) -> list[str]:
        return [] if math.isnan(self._score) else [f"score {self._score:.1f}"]

    def _line(self, now: float, with_unit: bool = True, with_rate: bool = True) -> str:
        unit = f" {self._unit}" if with_unit else ""
        parts = [f"{self._done:,}{unit}"]
        if self._total:
            share = min(1.0, self._done / self._total)
            parts = [f"{share:4.0%}", f"{short(self._done)}/{short(self._total)}{unit}"]
        rate, left = self._rate(now), self._stage_left(now)
        if rate and with_rate:
            parts.append(f"{short(rate)}/s")
        if left is not None:
            parts.append(f"{clock(left)} left")
        return "  ".join([self._head(self._name), *parts, *self._score_part(), self._run_part(now, left)])

    def _stage_left(self, now: float) -> float | None:
        """Seconds, by the stage's own pace, or else by what is expected of it."""
        rate, expected = self._rate(now), self._expected.get(self._name)
        if rate and self._total:
            return max(0, self._total - self._done) / rate
        return None if expected is None else max(0.0, expected - (now - self._began))

    def _run_part(self, now: float, stage_left: float | None) -> str:
        """Time of the whole pipeline: since it began, and left; a lower bound if nothing tells of a stage."""
        place = self._names.index(self._name) if self._name in self._names else len(self._names)
        ahead = [stage_left, *(self._expected[name] for name in self._names[place + 1 :])]
        left, bound = sum(one for one in ahead if one is not None), "≥ " if None in ahead else ""
        told = f", {bound}{clock(left)} left" if left or not bound else ""
        return f"run {clock(now - self._born)}{told}"

    def _rate(self, now: float) -> float:
        """Units a second in this process: what a checkpoint brought along counts as done, not as fast."""
        start, done = self._first or (now, 0)
        return (self._done - done) / (now - start) if now > start else 0.0

    def _draw(self, now: float) -> None:
        line = self._line(now)
        if not self._live:
            self._print(line)
            return
        room = shutil.get_terminal_size().columns - 1
        for with_rate in (True, False):
            if len(line) > room:
                line = self._line(now, with_unit=False, with_rate=with_rate)
        width = min(_BAR, room - len(line) - 2)
        if self._total and width > 0:
            full = round(min(1.0, self._done / self._total) * width)
            line += f"  {'━' * full}{'╌' * (width - full)}"
        self._stream.write(_CLEAR + line[:room])
        self._stream.flush()
        self._shown = True

    def _print(self, line: str) -> None:
        self._stream.write((_CLEAR if self._shown else "") + line + "\n")
        self._stream.flush()
        self._shown = False
