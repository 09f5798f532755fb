"""Worker processes for scripts, which are Python and use one core each."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from lfd.errors import Interrupted, RunError, UserError

_POLL = 0.1  # seconds between two looks at whether the run was asked to stop
_SIGNAL_DELAY = 0.5  # seconds in which a signal to all processes of a run reaches this one too

_play: Callable[..., Any]  # in a worker: the function that it calls


def in_workers(
    make: Callable[[Callable[[], bool]], Callable[..., Any]],
    tasks: Iterator[tuple[Any, ...]],
    count: int,
    stopping: Callable[[], bool],
) -> Iterator[Any]:
    """Yields `function(*task)` for each of the tasks, in order, computed by `count` forked processes.

    Each process makes its function by `make(stopping)`, whose argument returns True once the function should raise
    Interrupted. At most two tasks a process are ahead of the results, and a task is taken from `tasks` when it is given
    to a process. The processes end with the iterator, and with this process.

    Raises:
        Interrupted: `stopping` returned True.
        UserError: a process was killed; or as the function does.
    """
    context = multiprocessing.get_context("fork")  # a new interpreter would import torch for seconds
    stop = context.Event()
    with ProcessPoolExecutor(count, context, _start, (make, stop.is_set)) as pool:
        pending: deque[Future[Any]] = deque()
        try:
            while True:
                while len(pending) < 2 * count and (task := next(tasks, None)) is not None:
                    pending.append(pool.submit(_call, *task))
                if not pending:
                    return
                yield _result(pending.popleft(), stopping)
        except BrokenProcessPool as error:
            if _is_true_within(stopping, _SIGNAL_DELAY):
                raise Interrupted("stopped while episodes were played") from error
            raise UserError(
                "a process that played episodes was killed, perhaps as memory ran out; repeat the command to go on"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[Any], stopping: Callable[[], bool]) -> Any:
    while not stopping():
        try:
            return future.result(_POLL)
        except TimeoutError:
            pass
    raise Interrupted("stopped while episodes were played")


def _is_true_within(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def _start(make: Callable[[Callable[[], bool]], Callable[..., Any]], stopping: Callable[[], bool]) -> None:
    """Prepares a worker process."""
    global _play
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the run's stops them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # the threads of the run's process do not exist here
    try:
        _play = make(stopping)
    except RunError as error:
        _play = _raise(error)  # an error here would count as a killed process


def _raise(error: RunError) -> Callable[..., Any]:
    def function(*task: Any) -> Any:
        raise error

    return function


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(*task: Any) -> Any:
    return _play(*task)
