"""Ctrl-C: the first asks, the second ends, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

BEGIN = """
import ctypes, multiprocessing, os, sys, threading, time
from lfd import cli, interrupts
asked = threading.Event()
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
ASKING = "with interrupts.asking(asked.set): hang()"
GRACEFUL = """
    with interrupts.asking(asked.set):
        print("begun", flush=True)
        while not asked.wait(0.01):
            pass
    return 0"""


def ended(code: str, signals: list[int], between: float = 0.1) -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    for number in signals:
        time.sleep(between)
        process.send_signal(number)
    _, told = process.communicate(timeout=20)
    return process.returncode, told


@pytest.mark.parametrize("hanging", ["time.sleep(60)", "lock.acquire()", "ctypes.CDLL(None).pause()"])
@pytest.mark.parametrize("signals", [[signal.SIGINT] * 2, [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]])
def test_the_second_signal_ends_what_hangs(hanging: str, signals: list[int]) -> None:
    code, told = ended(BEGIN.format(hanging, ASKING), signals)
    assert code == 75 and told == "lfd: stopped at once; the same command continues\n"


def test_the_first_one_only_asks() -> None:
    assert ended(BEGIN.format("pass", GRACEFUL.strip()), [signal.SIGINT]) == (0, "")


def test_a_signal_while_the_end_is_told_prints_nothing_more() -> None:
    late = "import atexit; atexit.register(lambda: (print('begun', flush=True), time.sleep(5))); return 3"
    code, told = ended(BEGIN.format("pass", late), [signal.SIGINT, signal.SIGINT], between=0.05)
    assert (code, told) == (3, "")


FORKED = """
    with interrupts.asking(asked.set):
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


def test_a_forked_child_has_signals_of_its_own() -> None:
    code, told = ended("import signal\n" + BEGIN.format("pass", FORKED.strip()), [signal.SIGTERM])
    assert code == 0 and "stopped at once" not in told
