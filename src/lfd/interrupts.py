"""Ctrl-C and SIGTERM: the first one asks to stop, the second one ends the process, whatever it does."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, final

from lfd.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 0.5  # seconds in which the process may still end by itself after the second one

Ask = Callable[[], Any]


@final
class _Now:
    """What this process does about signals."""

    taken = False  # are the handlers ours?
    ignores = False  # does another process decide what they mean?
    code: int | None = None  # the exit code of a run that is over
    mask: Any = None  # signals that were blocked before a fork
    asks: list[Ask] = []


def take() -> Callable[[], None]:
    """From now on the first signal calls what `asking` names, or is a KeyboardInterrupt where that is nothing.

    The second one ends the process and its children with exit code 75. A thread counts them: Python's own handlers wait
    for the main thread, which may be deep in other people's C. Returns what undoes this; outside the main thread, and
    where it is done already, nothing changes.
    """
    if _Now.taken or _Now.ignores or threading.current_thread() is not threading.main_thread():
        return lambda: None
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    undone = threading.Event()
    before = {number: signal.signal(number, _first) for number in SIGNALS}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, undone), daemon=True).start()
    _Now.taken = True

    def undo() -> None:
        _Now.taken = False
        undone.set()
        signal.set_wakeup_fd(woken)
        os.close(writing)
        for number, handler in before.items():
            signal.signal(number, handler)

    return undo


@contextmanager
def taken() -> Iterator[None]:
    """`take` for as long as the `with` block lasts."""
    undo = take()
    try:
        yield
    finally:
        undo()


@contextmanager
def asking(ask: Ask) -> Iterator[None]:
    """While inside, the first signal calls this; see `take`."""
    with taken():
        _Now.asks.append(ask)
        try:
            yield
        finally:
            _Now.asks.remove(ask)


def ignore() -> None:
    """From now on signals mean nothing here: the process that this one works for gets them too, and decides."""
    _Now.ignores = True
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def over(code: int) -> None:
    """The run is over: a signal changes nothing of its exit code any longer, and prints nothing."""
    _Now.code = code
    if _Now.taken:
        for number in SIGNALS:
            signal.signal(number, lambda *_: os._exit(code))


def _first(number: int, frame: FrameType | None) -> None:
    # The next one is the thread's affair; a handler of Python's is still needed, for that to hear of it.
    for each in SIGNALS:
        signal.signal(each, lambda *_: None)
    if not _Now.asks:
        raise KeyboardInterrupt
    for ask in tuple(_Now.asks):
        ask()


def _watch(reading: int, undone: threading.Event) -> None:
    """Wait for the second signal; the end of the pipe means that the handlers were undone."""
    found = 0
    while found < 2:
        told = os.read(reading, 64)
        if not told:
            os.close(reading)
            return
        found += sum(number in SIGNALS for number in told)
    if undone.wait(GRACE):
        os.close(reading)
        return
    if _Now.code is not None:
        os._exit(_Now.code)
    for child in multiprocessing.active_children():
        with suppress(OSError, TypeError):  # it has ended, or has not begun
            os.kill(child.pid, signal.SIGKILL)  # type: ignore[arg-type] # joblib's have no kill() of their own
    clear = "\r\x1b[K" if os.isatty(2) else ""
    os.write(2, f"{clear}lfd: stopped at once; the same command continues\n".encode())
    os._exit(Interrupted.exit_code)


def _forget() -> None:
    """A forked child is no part of the run: there, signals do what they do in any process."""
    if _Now.taken:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _Now.taken = False
    _Now.asks.clear()
    _unblock()


def _block() -> None:
    # Until it has forgotten ours, a signal to the child would count as one to this process.
    _Now.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _Now.mask)


@atexit.register
def _last() -> None:
    """Python is about to take its handlers away, and there is nothing left to stop."""
    if _Now.code is not None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_forget)
