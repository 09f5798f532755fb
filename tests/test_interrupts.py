"""Signals, in processes of their own: the first one requests a stop, the second one ends the process."""

import signal
import subprocess
import sys
import time

import pytest

BEGIN = """
import ctypes, multiprocessing, os, sys, threading, time
from lfd import interrupts
from lfd.cli import main as cli
stop_requested = threading.Event()
def hang():
    lock = threading.Lock()
    lock.acquire()
    print("begun", flush=True)
    while True:
        try:
            {}
        except BaseException:
            pass
def run():
    {}
cli._run = run
cli.main()
"""
HANGING = "with interrupts.stop_request_handler(stop_requested.set): hang()"
GRACEFUL = """
    with interrupts.stop_request_handler(stop_requested.set):
        print("begun", flush=True)
        while not stop_requested.wait(0.01):
            pass
    return 0"""


def run_with_signals(code: str, signals: list[int], between: float = 0.1) -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    for number in signals:
        time.sleep(between)
        process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    return process.returncode, stderr


@pytest.mark.parametrize("hanging", ["time.sleep(60)", "lock.acquire()", "ctypes.CDLL(None).pause()"])
@pytest.mark.parametrize("signals", [[signal.SIGINT] * 2, [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]])
def test_second_signal_ends_a_hanging_process(hanging: str, signals: list[int]) -> None:
    code, stderr = run_with_signals(BEGIN.format(hanging, HANGING), signals)
    assert code == 75 and stderr == "lfd: stopped at once; the same command continues\n"


def test_first_signal_only_requests_a_stop() -> None:
    assert run_with_signals(BEGIN.format("pass", GRACEFUL.strip()), [signal.SIGINT]) == (0, "")


def test_signal_after_the_final_exit_code_prints_nothing() -> None:
    late = "import atexit; atexit.register(lambda: (print('begun', flush=True), time.sleep(5))); return 3"
    code, stderr = run_with_signals(BEGIN.format("pass", late), [signal.SIGINT, signal.SIGINT], between=0.05)
    assert (code, stderr) == (3, "")


FORKED = """
    with interrupts.stop_request_handler(stop_requested.set):
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(1)
        time.sleep(0.3)
        os.kill(child, signal.SIGINT)
        os.waitpid(child, 0)
        print("begun", flush=True)
        time.sleep(0.8)
    return 0"""


def test_signal_to_a_forked_child_does_not_count() -> None:
    code, stderr = run_with_signals("import signal\n" + BEGIN.format("pass", FORKED.strip()), [signal.SIGTERM])
    assert code == 0 and "stopped at once" not in stderr
