"""Ctrl-C and SIGTERM: the first signal requests a stop, the second one ends the process at once."""

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
GRACE_PERIOD = 0.5  # seconds after the second signal in which the process may still end by itself

StopRequest = Callable[[], Any]


@final
class _State:
    """State of signal handling in this process."""

    installed = False  # True while the handlers below are installed
    ignored = False  # True if the parent process or the calling program handles signals
    final_exit_code: int | None = None  # exit code of the finished run; None while it runs
    blocked_before_fork: Any = None  # signal mask before a fork
    stop_requests: list[StopRequest] = []


def install_handlers() -> Callable[[], None]:
    """Installs handlers and returns the function that restores the previous ones.

    The first signal calls the callbacks of `stop_request_handler`, or raises KeyboardInterrupt if there are none. The
    second signal ends the process and its children with exit code 75. A thread counts signals, because Python's
    handlers wait for the main thread, which may be inside C code. Outside the main thread, and if the handlers are
    installed already, nothing changes.
    """
    if _State.installed or _State.ignored or threading.current_thread() is not threading.main_thread():
        return lambda: None
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    restored = threading.Event()
    previous_handlers = {number: signal.signal(number, _handle_first_signal) for number in SIGNALS}
    previous_wakeup_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_watch_for_second_signal, args=(read_end, restored), daemon=True).start()
    _State.installed = True

    def restore() -> None:
        _State.installed = False
        restored.set()
        signal.set_wakeup_fd(previous_wakeup_fd)
        os.close(write_end)
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)

    return restore


@contextmanager
def handlers_installed() -> Iterator[None]:
    """Installs the handlers for the `with` block; see `install_handlers`."""
    restore = install_handlers()
    try:
        yield
    finally:
        restore()


@contextmanager
def stop_request_handler(request_stop: StopRequest) -> Iterator[None]:
    """In the `with` block the first signal calls `request_stop`; see `install_handlers`."""
    with handlers_installed():
        _State.stop_requests.append(request_stop)
        try:
            yield
        finally:
            _State.stop_requests.remove(request_stop)


@contextmanager
def default_signal_handling() -> Iterator[None]:
    """In the `with` block signals act as in any Python program: each Ctrl-C raises KeyboardInterrupt."""
    before, _State.ignored = _State.ignored, True
    try:
        yield
    finally:
        _State.ignored = before


def ignore_signals() -> None:
    """Ignores signals in this worker process: its parent gets them too and decides when to stop."""
    _State.ignored = True
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def set_final_exit_code(code: int) -> None:
    """Marks the run as finished: a later signal prints nothing and does not change its exit code."""
    _State.final_exit_code = code
    if _State.installed:
        for number in SIGNALS:
            signal.signal(number, lambda *_: os._exit(code))


def _handle_first_signal(number: int, frame: FrameType | None) -> None:
    # The thread handles the second signal; it is woken only while a Python handler is installed.
    for each in SIGNALS:
        signal.signal(each, lambda *_: None)
    if not _State.stop_requests:
        raise KeyboardInterrupt
    for request_stop in tuple(_State.stop_requests):
        request_stop()


def _watch_for_second_signal(read_end: int, restored: threading.Event) -> None:
    """Waits for the second signal; the pipe ends when the previous handlers are restored."""
    count = 0
    while count < 2:
        numbers = os.read(read_end, 64)
        if not numbers:
            os.close(read_end)
            return
        count += sum(number in SIGNALS for number in numbers)
    if restored.wait(GRACE_PERIOD):
        os.close(read_end)
        return
    if _State.final_exit_code is not None:
        os._exit(_State.final_exit_code)
    for child in multiprocessing.active_children():
        with suppress(OSError, TypeError):  # the child has ended or was not started yet
            os.kill(child.pid, signal.SIGKILL)  # type: ignore[arg-type] # joblib's processes have no kill()
    clear = "\r\x1b[K" if os.isatty(2) else ""
    os.write(2, f"{clear}lfd: stopped at once; the same command continues\n".encode())
    os._exit(Interrupted.exit_code)


def _reset_in_child() -> None:
    """Restores the default handlers in a forked child, which is no part of the run."""
    if _State.installed:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _State.installed = False
    _State.stop_requests.clear()
    _unblock_signals()


def _block_signals() -> None:
    # Until the child has its own handlers, a signal to it would count as a signal to this process.
    _State.blocked_before_fork = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _State.blocked_before_fork)


@atexit.register
def _ignore_signals_at_exit() -> None:
    """Ignores signals while Python shuts down after a finished run."""
    if _State.final_exit_code is not None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


os.register_at_fork(before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_reset_in_child)
