"""The scores that the README tells, over seeds 0, 1 and 2 with 100 episodes each: `pytest -m slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "run.py"

# environment, algorithm, the least mean return of each seed
BARS = [
    ("cartpole", "dqn", 475),
    ("cartpole", "ppo", 475),
    ("cartpole", "ppo_bc", 475),
    ("cartpole", "bc", 475),
    ("cartpole", "cql", 475),
    ("acrobot", "ppo", -100),
    ("pendulum", "ppo", -300),
    ("pendulum", "bc", -250),
    ("pendulum", "cql", -250),
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that each expert is trained once."""
    return tmp_path_factory.mktemp("scores")


@pytest.mark.slow
@pytest.mark.parametrize(("env", "algo", "bar"), BARS)
def test_every_seed_reaches_the_bar(outputs, env, algo, bar):
    line = [f"algo={algo}", f"env={env}", "seed=0,1,2", "score.episodes=100", f"outputs={outputs}"]
    done = subprocess.run([sys.executable, RUN, "-m", *line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(Path(done.stdout.splitlines()[-1]).read_text())["groups"]
    assert len(group["returns"]) == 3 and min(group["returns"]) >= bar
