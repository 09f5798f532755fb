"""A person at a terminal, played by a program that types."""

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import gymnasium as gym
import pytest

from lfd.data import Dataset
from lfd.terminal import ask

ROOT = Path(__file__).parents[1]
LABEL = ROOT / "scripts" / "label.py"


class Typist:
    """A process in a terminal of its own."""

    def __init__(self, *line: str, cwd: Path = ROOT) -> None:
        self._end, inside = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *map(str, line)], stdin=inside, stdout=inside, stderr=inside, cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is a signal only of one's own terminal
        )  # fmt: skip
        os.close(inside)
        self.seen = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Read until the pattern is there, and forget what stands before its end."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self._end], [], [], max(until - time.monotonic(), 0))
            assert ready, f"{pattern!r} did not come; there is {self.seen[-2000:]!r}"
            self.seen += self._read()
        self.seen = self.seen[found.end() :]
        return found

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def end(self) -> int:
        """The exit code; what was said last stands in `seen`."""
        try:
            self.wait_for("nothing more")
        except EOFError:
            pass
        os.close(self._end)
        return self.process.wait(60)

    def _read(self) -> str:
        try:
            return os.read(self._end, 65536).decode(errors="replace")
        except OSError as error:  # the other side is closed
            raise EOFError from error


# CartPole in rounds of six states, and a little of everything else.
SHORT = [
    "algo=dagger", "learn.check.every=0", "algo.sources.demos.transitions=6", "algo.sources.demos.most=6",
    "algo.sources.demos.episodes=1", "learn.stop.rounds=2", "score.episodes=2", "algo.batch=4",
]  # fmt: skip


def run(*line: str, outputs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "run.py", *line, f"outputs={outputs}"], capture_output=True, text=True, cwd=outputs
    )


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A run that waits for labels, and where its outputs are."""
    outputs = tmp_path_factory.mktemp("outputs")
    return run(*SHORT, "expert=queue", outputs=outputs), outputs


def waiting(outputs: Path) -> Path:
    return next(path for path in outputs.rglob("round-*") if not (path / "data.hdf5").exists())


def test_a_labelling_session_and_the_run_that_waits_for_it(asked):
    done, outputs = asked
    folder = waiting(outputs)
    assert done.returncode == 3 and done.stderr.splitlines()[-1].endswith(
        f"round 0 waits for 6 of 6 labels; `python scripts/label.py {folder}` asks for them, then the same command "
        "goes on"
    )
    assert len(list((folder / "pictures").glob("*.png"))) == 6
    person = Typist(LABEL, folder)
    for number, key in enumerate("10x1"):
        asks = rf"\x1b\[0m\r?\nround 0, state {min(number, 3) + 1} of 6: action, 0-1"
        if number != 3:  # x is no key, and is waited through
            person.wait_for(asks)
        person.type(key)
    person.wait_for("state 4 of 6")
    person.type("\x7f")  # Backspace: the third once more
    person.wait_for("state 3 of 6")
    person.type("0")
    person.wait_for("state 4 of 6")
    person.type("\x03")  # Ctrl-C
    assert person.end() == 75 and "stopped at the keyboard" in person.seen
    assert json.loads((folder / "labels.json").read_text())["labels"] == {"0": 1, "1": 0, "2": 0}
    again = run(*SHORT, "expert=queue", outputs=outputs)
    assert again.returncode == 3 and "waits for 3 of 6 labels" in again.stderr
    person = Typist(LABEL, folder)
    for number in (4, 5, 6):
        person.wait_for(f"state {number} of 6")
        person.type("1")
    person.wait_for("all 6 states have a label; Enter ends, Backspace goes back: ")
    person.type("\x7f")  # the last one can be taken back too
    person.wait_for("state 6 of 6")
    person.type("0")
    person.wait_for("all 6 states have a label")
    person.type("\n")
    assert person.end() == 0 and "3 labels given" in person.seen
    assert (folder.parent / "latest").resolve() == folder.resolve()
    again = run(*SHORT, "expert=queue", outputs=outputs)
    assert again.returncode == 3 and "round 1 waits for 6 of 6 labels" in again.stderr
    assert Dataset.open(folder / "data.hdf5").columns["actions"].tolist() == [1, 0, 0, 1, 1, 0]
    assert (folder.parent / "latest").resolve() == waiting(outputs).resolve()
    late = subprocess.run([sys.executable, LABEL, folder], capture_output=True, text=True)
    assert late.returncode == 2 and "the run has taken these labels" in late.stderr
    # Whoever has no terminal may send the keys down a pipe.
    piped = subprocess.run([sys.executable, LABEL, waiting(outputs)], input="101010", text=True, capture_output=True)
    assert piped.returncode == 0
    again = run(*SHORT, "expert=queue", outputs=outputs)
    assert again.returncode == 0, again.stderr


def test_the_names_of_actions_stand_beside_their_keys(monkeypatch, capsys):
    monkeypatch.setattr("lfd.terminal._read", lambda: "2")
    assert ask(gym.spaces.Discrete(3), ["left", "right", "forward"]) == 2
    assert "action, 0 left, 1 right, 2 forward (Ctrl-C stops): 2" in capsys.readouterr().err


def test_a_folder_that_asks_for_nothing_is_refused(tmp_path):
    done = subprocess.run([sys.executable, LABEL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and "has no request.json" in done.stderr and "Traceback" not in done.stderr


def test_a_person_drives_at_the_keyboard(tmp_path):
    person = Typist(ROOT / "run.py", *SHORT, "expert=keyboard", "algo.sources.demos.beta=1", f"outputs={tmp_path}")
    for number in range(40):
        found = person.wait_for(r"action, 0-1 \(Ctrl-C stops\): |result.json")
        if found.group() == "result.json":
            break
        person.type(str(number % 2))
    assert person.end() == 0
    (first, second) = sorted(tmp_path.rglob("round-*"))
    assert Dataset.open(first / "data.hdf5").columns["actions"].tolist() == [0, 1, 0, 1, 0, 1]


def test_a_continuous_action_is_a_line_of_numbers(tmp_path):
    line = [word for word in SHORT if "most" not in word and "transitions" not in word]
    line += ["env=pendulum", "env.max_episode_steps=3", "algo.sources.demos.transitions=3"]
    run(*line, "expert=queue", outputs=tmp_path)
    keys = "1.5\nleft\n1 2\n2.5\n-0.5\n0\n"  # three of the lines are no action
    done = subprocess.run(
        [sys.executable, LABEL, waiting(tmp_path)], input=keys, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((waiting(tmp_path) / "labels.json").read_text())["labels"] == {"0": [1.5], "1": [-0.5], "2": [0]}


def test_a_keyboard_without_a_person_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", *SHORT, "expert=keyboard", f"outputs={tmp_path}"], stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "the input has ended: run it in a terminal" in done.stderr.splitlines()[-1]
