"""lfd.run, as a script or a notebook calls it: results, policies, datasets, errors, Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import lfd
from lfd.errors import UserError
from lfd.files import load_json

TINY = ["dataset=random", "dataset.transitions=200", "learn.steps=20", "learn.eval.every=0", "score.episodes=2"]
NOTEBOOK = """
import os, sys
os.chdir("/")
sys.argv = ["ipykernel_launcher.py", "-f", "kernel.json"]
import lfd
from lfd.errors import UserError
tiny = {tiny}
result = lfd.run(["algo=bc", "env=pendulum", "outputs={outputs}", *tiny])
print(sorted(result.scores))
policy = result.policy("learn")
data = result.dataset("demos")
print(len(data), policy.act(data.observations([0])[0]).shape, policy.act_batch(data.observations([0, 1, 2])).shape)
try:
    lfd.run(["algo=cqll"])
except UserError as refusal:
    print(refusal)
again = lfd.run(["algo=bc", "outputs={outputs}", "seed=1", *tiny])
print(again.folder.name, result.folder.name != again.folder.name)
"""


@pytest.fixture
def notebook(tmp_path):
    return NOTEBOOK.format(tiny=TINY, outputs=tmp_path / "outputs")


def test_run_in_a_notebook_gives_scores_policy_and_dataset(notebook):
    done = subprocess.run([sys.executable, "-c", notebook], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    scores, shapes, refusal, again = done.stdout.splitlines()
    assert "'learn'" in scores
    assert shapes == "200 (1,) (3, 1)"
    assert refusal == "algo=cqll: algo has no option 'cqll'; did you mean 'cql'?"
    assert again.startswith("bc-cartpole-s1-") and again.endswith(" True")
    assert "learn" in done.stderr and "20 gradient steps" in done.stderr  # its progress


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(lfd.__file__).parents[1])}


def test_result_equals_the_content_of_the_run_folder(tmp_path):
    result = lfd.run(["algo=bc", f"outputs={tmp_path}", *TINY])
    stored = load_json(result.folder / "result.json")
    assert result.scores == stored["scores"] and result.scores["learn"]["episodes"] == 2
    again = lfd.run(["algo=bc", f"outputs={tmp_path}", *TINY])
    assert again.folder == result.folder and again.scores == result.scores
    for read, message in [
        (lambda: result.policy("lern"), "the run has no stage 'lern'; did you mean 'learn'?"),
        (lambda: result.dataset("learn"), "the run has no dataset 'learn'; known: demos"),
    ]:
        with pytest.raises(UserError, match=message):
            read()


def test_policy_acts_on_batches_greedily_or_sampled(tmp_path):
    result = lfd.run(["algo=bc", f"outputs={tmp_path}", *TINY])
    policy, obs = result.policy(), result.dataset().observations(np.arange(50))
    greedy = policy.act_batch(obs)
    assert greedy.dtype == np.int64 and greedy.tolist() == [policy.act(row) for row in obs]
    policy.reset(seed=3)
    sampled = policy.act_batch(obs, stochastic=True)
    assert (sampled != greedy).any() and {0, 1} == set(sampled.tolist())
    policy.reset(seed=3)
    assert (policy.act_batch(obs, stochastic=True) == sampled).all()
    with pytest.raises(UserError, match=r"expected shape \(N, 4\), got \(4,\)"):
        policy.act_batch(obs[0])


def test_run_takes_own_options_and_raises_the_messages_of_the_command_line(tmp_path):
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "slow.yaml").write_text("defaults: [bc, _self_]\nlr: 1e-5\n")
    result = lfd.run(["algo=slow", f"outputs={tmp_path / 'a,b'}", *TINY], config_dir=tmp_path / "mine")
    assert result.folder.name.startswith("slow-cartpole-") and (tmp_path / "a,b").is_dir()
    with pytest.raises(UserError, match="nowhere: expected a folder, got nothing"):
        lfd.run(config_dir=tmp_path / "nowhere")
    with pytest.raises(UserError, match="dry_run: expected false, got true"):
        lfd.run(["dry_run=true"])


@pytest.fixture
def python_handles_sigint():
    """Python's own handler of SIGINT, which a process that was started with SIGINT ignored does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_raises_keyboard_interrupt_and_the_same_call_continues(tmp_path, python_handles_sigint):
    before = signal.getsignal(signal.SIGINT)
    line = ["algo=bc", f"outputs={tmp_path}", *TINY, "learn.steps=1_000_000"]
    line.remove("learn.steps=20")

    def interrupt() -> None:
        while not any(path.stat().st_size for path in tmp_path.glob("runs/*/metrics.jsonl")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match="^$"):
        lfd.run(line)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    (folder,) = tmp_path.glob("runs/*")
    assert load_json(folder / "result.json")["status"] == "interrupted"
    assert lfd.run(["algo=bc", f"outputs={tmp_path}", *TINY]).scores["learn"]["episodes"] == 2


def test_run_of_a_string_is_refused():
    with pytest.raises(UserError, match=r"^overrides: expected a list, as in \['algo=bc'\], got a string$"):
        lfd.run("algo=bc")
