"""Live progress of a run, for a person at a terminal and for a log file."""

from __future__ import annotations

import math
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TextIO, final

_BAR = 20  # characters, where the terminal has room
_CLEAR = "\r\x1b[K"  # back to the line's start, and erase it
_RECENT = 60.0  # seconds over which the present pace is taken
_ALIKE = 1.2  # two estimates that differ by no more than this factor are shown as one
_told: set[str] = set()


def clock(seconds: float) -> str:
    """0:07, 12:30, 3:04:05, 2 d 03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@final
@dataclass(frozen=True)
class Span:
    """Seconds, between a low and a high estimate."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.high * factor)

    def __str__(self) -> str:
        low, high = clock(self.low), clock(self.high)
        return high if self.high <= _ALIKE * self.low or low == high else f"{low} .. {high}"

    @classmethod
    def sum(cls, spans: Iterable[Span]) -> Span:
        """All of them one after the other."""
        return sum(spans, cls(0.0, 0.0))


def short(number: float) -> str:
    """Three significant digits: 0.52, 431, 12.4k, 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def tell(line: str) -> None:
    """Print a line on stderr; at a terminal it takes the place of a progress line, which is drawn anew below it."""
    print((_CLEAR if sys.stderr.isatty() else "") + line, file=sys.stderr)


def tell_once(line: str, topic: str = "") -> None:
    """`tell` unless this process has told the line before, or another of the same topic."""
    if (key := topic or line) not in _told:
        _told.add(key)
        tell(line)


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
        self._marks: deque[tuple[float, int]] = deque()  # when how much was done, of the last minute
        self._doing: tuple[str, int, int | None, str] | None = None
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
        self._draw_if_due(now)

    def doing(self, what: str, done: int = 0, total: int | None = None, unit: str = "") -> None:
        """What the stage does beside its own steps, as "checking 3/10 episodes"; "" once it goes on with these."""
        now = monotonic()
        if not what:
            self._doing = None
            return
        if self._doing is None or self._doing[0] != what or done < self._doing[1]:
            self._since = now
        self._doing = what, done, total, unit
        self._draw_if_due(now)

    def _draw_if_due(self, now: float) -> None:
        if now >= self._due:
            self._due = now + self._interval
            self._marks.append((now, self._done))
            while now - self._marks[0][0] > _RECENT and len(self._marks) > 1:
                self._marks.popleft()
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
        if self._doing is not None:
            parts.append(self._told())
        rate, left = self._rate(now), self._stage_left(now)
        if rate and with_rate and self._doing is None:
            parts.append(f"{short(rate)}/s")
        if left is not None:
            parts.append(f"{left} left")
        return "  ".join([self._head(self._name), *parts, *self._score_part(), self._run_part(now, left)])

    def _told(self) -> str:
        assert self._doing is not None
        what, done, total, unit = self._doing
        return f"{what} {done:,}/{total:,} {unit}" if total else what

    def _stage_left(self, now: float) -> Span | None:
        """Seconds, by the stage's pace on the whole and of late, or else by what is expected of it; None if unknown."""
        paces, expected = self._paces(now), self._expected.get(self._name)
        if paces and self._total:
            left = [max(0, self._total - self._done) / pace for pace in paces]
            aside = self._aside_left(now)
            return None if aside is None else Span(min(left) + aside, max(left) + aside)
        if expected is None or now - self._began > expected:
            return None
        return Span(expected - (now - self._began), expected - (now - self._began))

    def _aside_left(self, now: float) -> float | None:
        """Seconds that what is done beside the steps will take still; None while that is unknown."""
        if self._doing is None:
            return 0.0
        _, done, total, _ = self._doing
        if total and done:
            return (now - self._since) * max(0, total - done) / done
        return None

    def _run_part(self, now: float, stage_left: Span | None) -> str:
        """Time of the whole pipeline: since it began, and left; a lower bound if nothing tells of a stage."""
        place = self._names.index(self._name) if self._name in self._names else len(self._names)
        later = [self._expected[name] for name in self._names[place + 1 :]]
        ahead = [stage_left, *(None if one is None else Span(one, one) for one in later)]
        left, bound = Span.sum(one for one in ahead if one is not None), "≥ " if None in ahead else ""
        told = f", {bound}{left} left" if left.high or not bound else ""
        return f"run {clock(now - self._born)}{told}"

    def _paces(self, now: float) -> list[float]:
        """Units a second in this process, on the whole and in the last minute, as far as they are known."""
        return [pace for pace in (self._rate(now), self._rate(now, self._marks[0] if self._marks else None)) if pace]

    def _rate(self, now: float, since: tuple[float, int] | None = None) -> float:
        """Units a second in this process: what a checkpoint brought along counts as done, not as fast."""
        start, done = since or self._first or (now, 0)
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
