"""States shown to a person at the terminal, and the keys that come back."""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.errors import Interrupted, Refused

KEYS = "0123456789abcdefghijklmnopqrstuvwxyz"  # of discrete actions, in this order
BACK = "\b\x7f"
COLUMNS = 72  # characters that a picture is wide


def show(observation: Any, picture: NDArray[np.uint8] | None) -> None:
    """A picture [H, W, 3], or, where there is none, the numbers of the observation; on stderr, as all talk is."""
    lines = _drawn(picture) if picture is not None else _numbers(observation)
    print("\x1b[H\x1b[2J" * sys.stderr.isatty() + "\n".join(lines), file=sys.stderr, flush=True)


def ask(space: gym.Space[Any], names: Sequence[str], told: str = "") -> Any:
    """The action that a person chooses: a key for a discrete one, a line of numbers for a continuous one.

    `names` are those of discrete actions, none where they have none.

    None for Backspace (or an empty line): what was answered before is to be answered again. Raises Interrupted for
    Ctrl-C and the end of the input.
    """
    if not isinstance(space, gym.spaces.Discrete):
        return _numbers_of(space, told)
    keys = KEYS[: int(space.n)]
    if len(keys) < space.n:
        raise Refused(f"a person has keys for {len(KEYS)} actions, {space} has {space.n}; use a script for it")
    legend = ", ".join(f"{key} {name}" for key, name in zip(keys, names, strict=True)) if names else ""
    key = _pressed(f"{told}action, {legend or f'{keys[0]}-{keys[-1]}'} (Ctrl-C stops): ", keys + BACK)
    if key in BACK:
        return None
    _say(f"{key}\n")
    return keys.index(key)


def agreed(told: str) -> bool:
    """Enter, or Backspace? Where nobody is at a terminal, what was piped in stands."""
    if not sys.stdin.isatty():
        return True
    is_end = _pressed(f"{told}; Enter ends, Backspace goes back: ", "\r\n" + BACK) not in BACK
    _say("\n" * is_end)
    return is_end


def bounds(space: gym.Space[Any]) -> tuple[Any, Any]:
    """The lowest and the highest action."""
    return (space.low, space.high) if isinstance(space, gym.spaces.Box) else (0, int(space.n) - 1)  # type: ignore[attr-defined]


def wanted(space: gym.Space[Any]) -> str:
    """An action, in words."""
    low, high = bounds(space)
    if isinstance(space, gym.spaces.Discrete):
        return f"an integer from 0 to {high}"
    return f"{np.size(low)} numbers from {np.array2string(low, precision=4)} to {np.array2string(high, precision=4)}"


def _numbers_of(space: gym.Space[Any], told: str) -> NDArray[np.float32] | None:
    size = int(np.prod(space.shape or ()))
    while True:
        _say(f"{told}action, {wanted(space)} (Ctrl-C stops): ")
        words = _line().split()
        if not words:
            return None
        try:
            numbers = np.array([float(word) for word in words], np.float32)
        except ValueError:
            continue
        if len(numbers) == size and np.array_equal(numbers, np.clip(numbers, *bounds(space))):
            return numbers.reshape(space.shape or ())


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _pressed(told: str, wanted: str) -> str:
    """One of the wanted keys. Asked for when keys come one by one: a line of text would swallow a Backspace."""
    with _listening(), _single_keys():
        _say(told)
        while (key := _read()) not in wanted:
            pass
        return key


def _line() -> str:
    line = ""
    with _listening():
        while not line.endswith("\n"):
            line += _read()
    return line


def _read() -> str:
    """One character; not from Python's buffer, in which `select` sees nothing."""
    if sys.stdin is None or sys.stdin.closed:
        raise Refused("a person is to answer and there is no input: run it in a terminal")
    select.select([sys.stdin], [], [])
    given = os.read(sys.stdin.fileno(), 1)
    if given == b"" and not sys.stdin.isatty():
        raise Refused("a person is to answer and the input has ended: run it in a terminal; answers are kept")
    if given in (b"", b"\x04"):
        raise Interrupted("stopped at the keyboard")
    return given.decode(errors="replace")


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys come one by one and are not echoed, if there is a terminal."""
    if sys.stdin is None or sys.stdin.closed or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSANOW)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _listening() -> Iterator[None]:
    """Ctrl-C ends the waiting for a key at once, and not only where the run looks for it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped at the keyboard")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _drawn(picture: NDArray[np.uint8]) -> list[str]:
    """Two pixels a character: the upper one in its ink, the lower one behind it."""
    height, width = picture.shape[:2]
    columns = min(COLUMNS, width)
    rows = max(2, round(height * columns / width) // 2 * 2)
    at = (np.arange(rows) * height // rows)[:, None], np.arange(columns) * width // columns
    small = picture[at]
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        cells = [
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m\N{UPPER HALF BLOCK}"
            for a, b in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m")
    return lines


def _numbers(observation: Any) -> list[str]:
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    return [f"{name}: {np.array2string(np.asarray(part), precision=3, threshold=64)}" for name, part in parts.items()]
