"""Progress of a run, at a terminal and in a log file."""

from __future__ import annotations

import math
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TextIO, final

_BAR_WIDTH = 20  # characters, where the terminal has room
_CLEAR_LINE = "\r\x1b[K"  # to the start of the line, and erase the line
_RECENT_SECONDS = 60.0  # seconds over which the recent rate is measured
_SAME_ESTIMATE = 1.2  # two estimates that differ by at most this factor are shown as one
_printed: set[str] = set()


def format_duration(seconds: float) -> str:
    """0:07, 12:30, 3:04:05, 2 d 03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@final
@dataclass(frozen=True)
class TimeEstimate:
    """A duration in seconds, with a low and a high estimate."""

    low: float
    high: float

    def __add__(self, other: TimeEstimate) -> TimeEstimate:
        return TimeEstimate(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> TimeEstimate:
        return TimeEstimate(self.low * factor, self.high * factor)

    def __str__(self) -> str:
        low, high = format_duration(self.low), format_duration(self.high)
        return high if self.high <= _SAME_ESTIMATE * self.low or low == high else f"{low} .. {high}"

    @classmethod
    def sum(cls, spans: Iterable[TimeEstimate]) -> TimeEstimate:
        """The duration of all spans one after the other."""
        return sum(spans, cls(0.0, 0.0))


def format_short(number: float) -> str:
    """Three significant digits: 0.52, 431, 12.4k, 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def print_message(line: str) -> None:
    """Prints a line on stderr; at a terminal it replaces the progress line, which is drawn again below it."""
    print((_CLEAR_LINE if sys.stderr.isatty() else "") + line, file=sys.stderr)


def print_message_once(line: str, topic: str = "") -> None:
    """Prints a line on stderr once per process, or once per `topic` if there is one."""
    if (key := topic or line) not in _printed:
        _printed.add(key)
        print_message(line)


@final
class Progress:
    """Progress of every stage and of the whole pipeline.

    At a terminal one line is rewritten. In a log file, and for a job of a sweep, which shares the terminal with other
    jobs, a line is written at most every ten seconds. A finished and a stored stage always have a line.

    `stages` are all stages of the run in order, with the expected seconds of each: 0 if its product is stored, None if
    unknown; the time left of the run is then shown as a lower bound. `stream` is stderr by default. `job` is the name
    of this job in a sweep, "" for a single run.
    """

    def __init__(self, stages: Sequence[tuple[str, float | None]], stream: TextIO | None = None, job: str = "") -> None:
        self._stream = stream or sys.stderr
        self._names, self._expected = [name for name, _ in stages], dict(stages)
        self._width = max((len(name) for name in self._names), default=0)
        self._live = self._stream.isatty() and not job
        self._prefix = f"{job}: " if job else ""
        self._interval = 0.1 if self._live else 10.0
        self._run_start = monotonic()
        self._has_live_line = False
        self._name = ""

    def begin_stage(self, name: str, total: int | None, unit: str = "steps") -> None:
        """Starts a stage, or continues it from a checkpoint; `total` is counted in `unit`, None if unknown."""
        self._name, self._total, self._unit = name, total, unit
        self._done, self._score = 0, math.nan
        self._first: tuple[float, int] | None = None
        self._history: deque[tuple[float, int]] = deque()  # (time, done) of the last minute
        self._activity: tuple[str, int, int | None, str] | None = None
        self._stage_start = monotonic()
        self._next_draw = self._stage_start + (0.0 if self._live else self._interval)

    def update(self, done: int, score: float | None = None) -> None:
        """Sets `done` of the total, counted from the start of the stage, and a new `score`; draws if a line is due."""
        now = monotonic()
        self._done = done
        if score is not None:
            self._score = score
        if self._first is None:
            self._first = (now, done)
        self._draw_if_due(now)

    def set_activity(self, name: str, done: int = 0, total: int | None = None, unit: str = "") -> None:
        """Sets an activity besides the steps of the stage, such as "evaluating 3/10 episodes"; "" ends it."""
        now = monotonic()
        if not name:
            self._activity = None
            return
        if self._activity is None or self._activity[0] != name or done < self._activity[1]:
            self._activity_start = now
        self._activity = name, done, total, unit
        self._draw_if_due(now)

    def _draw_if_due(self, now: float) -> None:
        if now >= self._next_draw:
            self._next_draw = now + self._interval
            self._history.append((now, self._done))
            while now - self._history[0][0] > _RECENT_SECONDS and len(self._history) > 1:
                self._history.popleft()
            self._draw(now)

    def report_stored(self, name: str) -> None:
        """Prints that the product of a stage is stored already."""
        self._print(f"{self._head(name)}  stored already")

    def end_stage(self, seconds: float) -> None:
        """Ends the stage; `seconds` is its time over all processes that worked on it."""
        parts = (
            [f"{self._done:,} {self._unit} in {format_duration(seconds)}"]
            if self._done
            else [f"done in {format_duration(seconds)}"]
        )
        self._print("  ".join([self._head(self._name), *parts, *self._score_part()]))
        self._name = ""

    def close(self) -> None:
        """Ends a progress line, which an interrupted run leaves open."""
        if self._has_live_line:
            self._stream.write("\n")
            self._stream.flush()
            self._has_live_line = False

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
            parts = [f"{share:4.0%}", f"{format_short(self._done)}/{format_short(self._total)}{unit}"]
        if self._activity is not None:
            parts.append(self._activity_text())
        rate, left = self._rate(now), self._stage_left(now)
        if rate and with_rate and self._activity is None:
            parts.append(f"{format_short(rate)}/s")
        if left is not None:
            parts.append(f"{left} left")
        return "  ".join([self._head(self._name), *parts, *self._score_part(), self._run_part(now, left)])

    def _activity_text(self) -> str:
        assert self._activity is not None
        name, done, total, unit = self._activity
        return f"{name} {done:,}/{total:,} {unit}" if total else name

    def _stage_left(self, now: float) -> TimeEstimate | None:
        """Time left by the stage's overall and recent rates, otherwise by its expected time; None if unknown."""
        rates, expected = self._rates(now), self._expected.get(self._name)
        if rates and self._total:
            left = [max(0, self._total - self._done) / rate for rate in rates]
            extra = self._activity_left(now)
            return None if extra is None else TimeEstimate(min(left) + extra, max(left) + extra)
        if expected is None or now - self._stage_start > expected:
            return None
        return TimeEstimate(expected - (now - self._stage_start), expected - (now - self._stage_start))

    def _activity_left(self, now: float) -> float | None:
        """Seconds left of the activity besides the steps; None while unknown."""
        if self._activity is None:
            return 0.0
        _, done, total, _ = self._activity
        if total and done:
            return (now - self._activity_start) * max(0, total - done) / done
        return None

    def _run_part(self, now: float, stage_left: TimeEstimate | None) -> str:
        """Time of the pipeline so far and time left; a lower bound if the time of a stage is unknown."""
        place = self._names.index(self._name) if self._name in self._names else len(self._names)
        expected = [self._expected[name] for name in self._names[place + 1 :]]
        spans = [stage_left, *(None if seconds is None else TimeEstimate(seconds, seconds) for seconds in expected)]
        left, bound = TimeEstimate.sum(span for span in spans if span is not None), "≥ " if None in spans else ""
        left_text = f", {bound}{left} left" if left.high or not bound else ""
        return f"run {format_duration(now - self._run_start)}{left_text}"

    def _rates(self, now: float) -> list[float]:
        """Units per second in this process, overall and in the last minute, as far as they are known."""
        return [
            rate for rate in (self._rate(now), self._rate(now, self._history[0] if self._history else None)) if rate
        ]

    def _rate(self, now: float, since: tuple[float, int] | None = None) -> float:
        """Units per second in this process; units of an earlier process are left out."""
        start, done = since or self._first or (now, 0)
        return (self._done - done) / (now - start) if now > start else 0.0

    def _draw(self, now: float) -> None:
        line = self._line(now)
        if not self._live:
            self._print(line)
            return
        columns = shutil.get_terminal_size().columns - 1
        for with_rate in (True, False):
            if len(line) > columns:
                line = self._line(now, with_unit=False, with_rate=with_rate)
        width = min(_BAR_WIDTH, columns - len(line) - 2)
        if self._total and width > 0:
            filled = round(min(1.0, self._done / self._total) * width)
            line += f"  {'━' * filled}{'╌' * (width - filled)}"
        self._stream.write(_CLEAR_LINE + line[:columns])
        self._stream.flush()
        self._has_live_line = True

    def _print(self, line: str) -> None:
        self._stream.write((_CLEAR_LINE if self._has_live_line else "") + line + "\n")
        self._stream.flush()
        self._has_live_line = False
