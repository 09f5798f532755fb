"""Labels typed at a terminal, in a pseudo-terminal driven by the test."""

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
from lfd.experts.terminal import ask_action

ROOT = Path(__file__).parents[2]
LABEL = ROOT / "scripts" / "label.py"


class TerminalProcess:
    """A process in a pseudo-terminal of its own."""

    def __init__(self, *line: str, cwd: Path = ROOT) -> None:
        self._terminal, inside = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *map(str, line)], stdin=inside, stdout=inside, stderr=inside, cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is a signal only of one's own terminal
        )  # fmt: skip
        os.close(inside)
        self.output = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Reads until the pattern matches and drops the output up to its end."""
        until = time.monotonic() + seconds
        while not (match := re.search(pattern, self.output)):
            ready, _, _ = select.select([self._terminal], [], [], max(until - time.monotonic(), 0))
            assert ready, f"{pattern!r} did not come; there is {self.output[-2000:]!r}"
            self.output += self._read()
        self.output = self.output[match.end() :]
        return match

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def end(self) -> int:
        """Waits for the end and returns the exit code; the last output stands in `output`."""
        try:
            self.wait_for("nothing more")
        except EOFError:
            pass
        os.close(self._terminal)
        return self.process.wait(60)

    def _read(self) -> str:
        try:
            return os.read(self._terminal, 65536).decode(errors="replace")
        except OSError as error:  # the other side is closed
            raise EOFError from error


# CartPole in rounds of six states, and a little of everything else.
SHORT = [
    "algo=dagger", "learn.eval.every=0", "algo.sources.demos.transitions=6", "algo.sources.demos.max_transitions=6",
    "algo.sources.demos.episodes=1", "learn.stop.rounds=2", "score.episodes=2", "algo.batch_size=4",
]  # fmt: skip


def run(*line: str, outputs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "run.py", *line, f"outputs={outputs}"], capture_output=True, text=True, cwd=outputs
    )


@pytest.fixture(scope="module")
def waiting_run(tmp_path_factory):
    """A finished process of a run that waits for labels, and its outputs folder."""
    outputs = tmp_path_factory.mktemp("outputs")
    return run(*SHORT, "expert=queue", outputs=outputs), outputs


def waiting_folder(outputs: Path) -> Path:
    return next(path for path in outputs.rglob("round-*") if not (path / "data.hdf5").exists())


def test_label_states_backspace_and_resume_until_the_run_continues(waiting_run):
    done, outputs = waiting_run
    folder = waiting_folder(outputs)
    assert done.returncode == 3 and done.stderr.splitlines()[-1].endswith(
        f"round 0 waits for 6 of 6 labels; label them with `python scripts/label.py {folder}`, then repeat the command"
    )
    assert len(list((folder / "pictures").glob("*.png"))) == 6
    person = TerminalProcess(LABEL, folder)
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
    assert person.end() == 75 and "stopped at the keyboard" in person.output
    assert json.loads((folder / "labels.json").read_text())["labels"] == {"0": 1, "1": 0, "2": 0}
    again = run(*SHORT, "expert=queue", outputs=outputs)
    assert again.returncode == 3 and "waits for 3 of 6 labels" in again.stderr
    person = TerminalProcess(LABEL, folder)
    for number in (4, 5, 6):
        person.wait_for(f"state {number} of 6")
        person.type("1")
    person.wait_for("all 6 states have a label; Enter ends, Backspace goes back: ")
    person.type("\x7f")  # the last one can be taken back too
    person.wait_for("state 6 of 6")
    person.type("0")
    person.wait_for("all 6 states have a label")
    person.type("\n")
    assert person.end() == 0 and "3 labels stored" in person.output
    assert (folder.parent / "latest").resolve() == folder.resolve()
    again = run(*SHORT, "expert=queue", outputs=outputs)
    assert again.returncode == 3 and "round 1 waits for 6 of 6 labels" in again.stderr
    assert Dataset.open(folder / "data.hdf5").columns["actions"].tolist() == [1, 0, 0, 1, 1, 0]
    assert (folder.parent / "latest").resolve() == waiting_folder(outputs).resolve()
    late = subprocess.run([sys.executable, LABEL, folder], capture_output=True, text=True)
    assert late.returncode == 2 and "the run has read these labels already" in late.stderr
    # keys may come from a pipe
    piped = subprocess.run(
        [sys.executable, LABEL, waiting_folder(outputs)], input="101010", text=True, capture_output=True
    )
    assert piped.returncode == 0
    again = run(*SHORT, "expert=queue", outputs=outputs)
    assert again.returncode == 0, again.stderr


def test_ask_action_shows_the_names_of_actions(monkeypatch, capsys):
    monkeypatch.setattr("lfd.experts.terminal._read_character", lambda: "2")
    assert ask_action(gym.spaces.Discrete(3), ["left", "right", "forward"]) == 2
    assert "action, 0 left, 1 right, 2 forward (Ctrl-C stops): 2" in capsys.readouterr().err


def test_label_script_without_a_request_is_refused(tmp_path):
    done = subprocess.run([sys.executable, LABEL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and "got one without request.json" in done.stderr and "Traceback" not in done.stderr


def test_keyboard_expert_actions_are_stored(tmp_path):
    person = TerminalProcess(
        ROOT / "run.py", *SHORT, "expert=keyboard", "algo.sources.demos.beta=1", f"outputs={tmp_path}"
    )
    for number in range(40):
        match = person.wait_for(r"action, 0-1 \(Ctrl-C stops\): |result.json")
        if match.group() == "result.json":
            break
        person.type(str(number % 2))
    assert person.end() == 0
    (first, second) = sorted(tmp_path.rglob("round-*"))
    assert Dataset.open(first / "data.hdf5").columns["actions"].tolist() == [0, 1, 0, 1, 0, 1]


def test_label_script_continuous_action_is_a_line_of_numbers(tmp_path):
    line = [word for word in SHORT if "transitions" not in word]
    line += ["env=pendulum", "env.max_episode_steps=3", "algo.sources.demos.transitions=3"]
    run(*line, "expert=queue", outputs=tmp_path)
    keys = "1.5\nleft\n1 2\n2.5\n-0.5\n0\n"  # three of the lines are no action
    done = subprocess.run(
        [sys.executable, LABEL, waiting_folder(tmp_path)], input=keys, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((waiting_folder(tmp_path) / "labels.json").read_text())["labels"] == {
        "0": [1.5],
        "1": [-0.5],
        "2": [0],
    }


def test_keyboard_expert_without_a_terminal_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", *SHORT, "expert=keyboard", f"outputs={tmp_path}"], stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "the input has ended; run the command in a terminal" in done.stderr.splitlines()[-1]
