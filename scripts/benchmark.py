"""Times gradient steps, sampling included, on random data of the field's usual shapes, and compares other libraries.

Prints the Markdown rows of docs/speed.md. A case is `<algo>:<shape>`. Shapes: continuous (observation 17, action 6, two
layers of 256, batch 256, 1,000,000 transitions), discrete (observation 4, 2 actions, two layers of 128, batch 64) and
atari (4 x 84 x 84, batch 32).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lfd.config.composer import Composer
from lfd.config.experiment import Experiment
from lfd.data import Dataset, Episode, Writer
from lfd.envs import Env
from lfd.errors import RunError, UserError
from lfd.log import MetricsLog, Progress, RunLog
from lfd.sources.dataset import DatasetSource
from lfd.stages import StageContext
from lfd.stages.fit.loop import TrainLoop
from lfd.stages.fit.stage import Fit

# By shape: overrides, rows of data, steps of an episode.
SHAPES: dict[str, tuple[list[str], int, int]] = {
    "continuous": (["env=halfcheetah", "algo.agent.hidden=[256,256]", "algo.batch_size=256"], 1_000_000, 1_000),
    "discrete": (["env=cartpole", "algo.agent.hidden=[128,128]", "algo.batch_size=64"], 1_000_000, 200),
    "atari": (["env=pong", "algo.batch_size=32"], 20_000, 1_000),
}
# By case: overrides that make it equal to the case of other libraries, and the name of that case.
CASES: dict[str, tuple[list[str], str]] = {
    "bc:continuous": (["algo.losses.bc.error=mse"], "bc_continuous"),
    "td3_bc:continuous": ([], "td3_bc"),
    "iql:continuous": ([], "iql"),
    "sac:continuous": ([], "sac"),
    "cql:continuous": ([], "cql_continuous"),
    "bcq:continuous": (["algo.agent.nets.vae.hidden=[256,256]", "algo.losses.bcq.samples=10"], "bcq_continuous_10"),
    "rebrac:continuous": ([], "rebrac"),
    "bc:discrete": ([], "bc_discrete"),
    "dqn:discrete": ([], "dqn"),
    "qrdqn:discrete": ([], "qrdqn"),
    "bcq:discrete": ([], "bcq_discrete"),
    "crr:discrete": ([], "crr_discrete"),
    "cql:discrete": ([], "cql_discrete"),
    "cql_qrdqn:discrete": ([], "cql_discrete_qr"),
    "bc:atari": ([], "bc_atari"),
    "dqn:atari": ([], "dqn_atari"),
    "qrdqn:atari": ([], "qrdqn_atari"),
    "bcq:atari": ([], "bcq_atari"),
    "crr:atari": ([], "crr_atari"),
    "cql:atari": ([], "cql_atari"),
    "cql_qrdqn:atari": ([], "cql_atari_qr"),
}


def compose(algo: str, shape: str, more: list[str]) -> Experiment:
    """The experiment of a case, with the overrides `more`."""
    overrides = [f"algo={algo}", *SHAPES[shape][0], *more]
    return Composer().experiment(overrides)


def random_dataset(env: Env, rows: int, length: int, folder: Path) -> Dataset:
    """Episodes of `length` steps of random numbers in the spaces of an environment, `rows` in all, written once."""
    path = folder / f"{env.fingerprint()['id'].replace('/', '-')}-{rows}" / "data.hdf5"
    if not path.exists():
        spaces, rng = env.spaces(), np.random.default_rng(0)
        observation: Any = spaces.observation
        action: Any = spaces.action
        shape = observation.shape[1:] if env.stack > 1 else observation.shape
        writer = Writer(path.parent / "shards", spaces, env.stack)
        for _ in range(rows // length):
            if observation.dtype == np.uint8:
                observations = rng.integers(256, size=(length + 1, *shape), dtype=np.uint8)
            else:
                observations = rng.standard_normal((length + 1, *shape)).astype(np.float32)
            if spaces.actions == "discrete":
                actions = rng.integers(int(action.n), size=length)
            else:
                actions = rng.uniform(-1, 1, (length, *action.shape)).astype(np.float32)
            rewards = rng.standard_normal(length).astype(np.float32)
            writer.add(Episode(observations, actions, rewards, False, True))
        writer.finalize(path, {})
    return Dataset.open(path)


def make_training(case: str, members: int, folder: Path, work: Path, more: list[str]) -> TrainLoop:
    """Training on random data; online algorithms read it in place of environments, which are not timed."""
    algo, shape = case.split(":")
    _, rows, length = SHAPES[shape]
    experiment = compose(algo, shape, [*CASES[case][0], *more])
    assert experiment.env is not None
    fit = experiment.stages["learn"]
    assert isinstance(fit, Fit)
    fit.members, fit.eval.every = members, 0
    fit.algo.sources.update({name: DatasetSource(dataset="demos") for name in fit.sources()})
    data = random_dataset(experiment.env, rows, length, folder)
    log = RunLog(work / "metrics.jsonl")
    context = StageContext(
        name="learn", folder=work, env=experiment.env, products={"demos": data}, hardware=experiment.hardware,
        progress=Progress([]), metrics=MetricsLog(work / "stage.jsonl"), run_log=log, stopping=lambda: False,
        spaces=experiment.env.spaces(),
    )  # fmt: skip
    return TrainLoop(fit, context)


def steps_per_second(training: TrainLoop, seconds: float, repeats: int = 2) -> float:
    """Gradient steps a second, of all members together: the best of the repeats, of `seconds` each."""
    rates = []
    for index in range(repeats + 1):
        count, start = 0, time.perf_counter()
        # The first repeat warms up.
        while time.perf_counter() - start < (seconds if index else seconds / 3) or count < 5:
            training.step()
            count += 1
        if training.device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(count * training.learner.members / (time.perf_counter() - start))
    return max(rates[1:])


def best_peers(path: Path | None) -> dict[str, tuple[float, str]]:
    """By case, the best rate of another library and its name, from JSON lines {"peer", "case", "unit", "value"}."""
    best: dict[str, tuple[float, str]] = {}
    for line in path.read_text().splitlines() if path else []:
        row = json.loads(line)
        if row["unit"] == "updates/s" and row["value"] > best.get(row["case"], (0.0, ""))[0]:
            best[row["case"]] = (row["value"], row["peer"])
    return best


def markdown_row(case: str, rate: float, peer_rate: float, peer: str) -> str:
    """A row of docs/speed.md; without a rate of another library its cells are dashes."""
    shown = [f"{value:,.0f}" if value >= 20 else f"{value:.1f}" for value in (rate, peer_rate)]
    comparison = f"{shown[1]} {peer} | {rate / peer_rate:.1f}" if peer_rate else "– | –"
    return f"| {case} | {shown[0]} | {comparison} |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of two timings; the better one counts")
    parser.add_argument("--members", type=int, default=1, help="agents trained at once; the rate is of all together")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 = as a run chooses them")
    parser.add_argument("--hardware", default="cpu", help="an option of the group hardware")
    parser.add_argument("--peers", type=Path, help="JSON lines with rates of other libraries on this machine")
    parser.add_argument("--data", type=Path, default=Path("outputs/benchmark"), help="folder of the random data")
    options = parser.parse_args(arguments)
    if unknown := [case for case in options.cases if case not in CASES]:
        raise UserError(f"cases: expected some of {', '.join(CASES)}, got {unknown[0]!r}; choose one of these")
    peers = best_peers(options.peers)
    print("| case | ours | best peer | ratio |\n|---|---|---|---|")
    for case in options.cases:
        more = [f"hardware={options.hardware}", f"hardware.threads={options.threads}"]
        with (
            TemporaryDirectory() as folder,
            make_training(case, options.members, options.data, Path(folder), more) as training,
        ):
            rate = steps_per_second(training, options.seconds)
        print(markdown_row(case, rate, *peers.get(CASES[case][1], (0.0, ""))), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RunError as ending:
        sys.exit(f"benchmark: {ending}")
