"""Shows states to a person at the terminal and reads the keys that the person types."""

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

from lfd.errors import Interrupted, UserError

ACTION_KEYS = "0123456789abcdefghijklmnopqrstuvwxyz"  # keys of discrete actions, in order
BACK_KEYS = "\b\x7f"  # Backspace
PICTURE_COLUMNS = 72  # maximum width of a picture, in characters


def show_state(observation: Any, picture: NDArray[np.uint8] | None) -> None:
    """Draws a picture [H, W, 3] uint8, or prints the observation if there is none, on stderr."""
    lines = _draw(picture) if picture is not None else _format_observation(observation)
    print("\x1b[H\x1b[2J" * sys.stderr.isatty() + "\n".join(lines), file=sys.stderr, flush=True)


def ask_action(space: gym.Space[Any], names: Sequence[str], prefix: str = "") -> Any:
    """Asks a person for an action: a key for a discrete one, a line of numbers for a continuous one.

    `names` are those of discrete actions, empty if they have none; `prefix` stands before the question. Returns None
    for Backspace or an empty line, which ask for the previous state again. Raises Interrupted for Ctrl-C and the end of
    the input.
    """
    if not isinstance(space, gym.spaces.Discrete):
        return _ask_continuous_action(space, prefix)
    keys = ACTION_KEYS[: int(space.n)]
    if len(keys) < space.n:
        raise UserError(
            f"expert: expected at most {len(ACTION_KEYS)} actions for a person, got {space}; use expert=script"
        )
    legend = ", ".join(f"{key} {name}" for key, name in zip(keys, names, strict=True)) if names else ""
    key = _ask_key(f"{prefix}action, {legend or f'{keys[0]}-{keys[-1]}'} (Ctrl-C stops): ", keys + BACK_KEYS)
    if key in BACK_KEYS:
        return None
    _write(f"{key}\n")
    return keys.index(key)


def confirm(text: str) -> bool:
    """True for Enter, False for Backspace; True without asking if the input is no terminal."""
    if not sys.stdin.isatty():
        return True
    is_enter = _ask_key(f"{text}; Enter ends, Backspace goes back: ", "\r\n" + BACK_KEYS) not in BACK_KEYS
    _write("\n" * is_enter)
    return is_enter


def action_bounds(space: gym.Space[Any]) -> tuple[Any, Any]:
    """The lowest and the highest action: arrays [A] of a Box, integers of a Discrete."""
    return (space.low, space.high) if isinstance(space, gym.spaces.Box) else (0, int(space.n) - 1)  # type: ignore[attr-defined]


def describe_action(space: gym.Space[Any]) -> str:
    """The form of an action in words."""
    low, high = action_bounds(space)
    if isinstance(space, gym.spaces.Discrete):
        return f"an integer from 0 to {high}"
    return f"{np.size(low)} numbers from {np.array2string(low, precision=4)} to {np.array2string(high, precision=4)}"


def _ask_continuous_action(space: gym.Space[Any], prefix: str) -> NDArray[np.float32] | None:
    size = int(np.prod(space.shape or ()))
    while True:
        _write(f"{prefix}action, {describe_action(space)} (Ctrl-C stops): ")
        words = _read_line().split()
        if not words:
            return None
        try:
            numbers = np.array([float(word) for word in words], np.float32)
        except ValueError:
            continue
        if len(numbers) == size and np.array_equal(numbers, np.clip(numbers, *action_bounds(space))):
            return numbers.reshape(space.shape or ())


def _write(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _ask_key(question: str, keys: str) -> str:
    """Reads one of `keys`. The terminal is switched first, as a line of input would swallow a Backspace."""
    with _interruptible(), _single_keys():
        _write(question)
        while (key := _read_character()) not in keys:
            pass
        return key


def _read_line() -> str:
    line = ""
    with _interruptible():
        while not line.endswith("\n"):
            line += _read_character()
    return line


def _read_character() -> str:
    """Reads one character past Python's buffer, which `select` does not see."""
    if sys.stdin is None or sys.stdin.closed:
        raise UserError("expected a person at a terminal, but there is no input; run the command in a terminal")
    select.select([sys.stdin], [], [])
    byte = os.read(sys.stdin.fileno(), 1)
    if byte == b"" and not sys.stdin.isatty():
        raise UserError(
            "expected a person at a terminal, but the input has ended; run the command in a terminal (answers are kept)"
        )
    if byte in (b"", b"\x04"):
        raise Interrupted("stopped at the keyboard")
    return byte.decode(errors="replace")


@contextmanager
def _single_keys() -> Iterator[None]:
    """In the `with` block keys arrive one by one without echo, if the input is a terminal."""
    if sys.stdin is None or sys.stdin.closed or not sys.stdin.isatty():
        yield
        return
    attributes = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSANOW)  # keeps what was typed ahead
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, attributes)


@contextmanager
def _interruptible() -> Iterator[None]:
    """In the `with` block Ctrl-C raises Interrupted at once, not only at the run's next check."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped at the keyboard")

    previous_handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def _draw(picture: NDArray[np.uint8]) -> list[str]:
    """Lines of half blocks: the upper pixel is the foreground color, the lower one the background color."""
    height, width = picture.shape[:2]
    columns = min(PICTURE_COLUMNS, width)
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


def _format_observation(observation: Any) -> list[str]:
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    return [f"{name}: {np.array2string(np.asarray(part), precision=3, threshold=64)}" for name, part in parts.items()]
