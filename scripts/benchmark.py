"""Times gradient steps, sampling included, on made-up data of the field's usual shapes, beside what peers reached.

A case is `<algo>:<shape>`. Shapes: continuous (observation 17, action 6, two layers of 256, batch 256, 1,000,000
transitions), discrete (observation 4, 2 actions, two layers of 128, batch 64) and atari (4 x 84 x 84, batch 32).
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
from omegaconf import open_dict

from lfd.cli import config_folder
from lfd.composing import Composer
from lfd.data import Dataset, Episode, Writer
from lfd.envs import Env
from lfd.errors import Ending, Refused
from lfd.experiment import Experiment, build, register
from lfd.log import MetricsLog, Progress, RunLog
from lfd.sources.dataset import Demonstrations
from lfd.sources.replay import Replay
from lfd.stages import Lab
from lfd.stages.fit import Fit
from lfd.stages.training import Training

# Shape: overrides, rows of data, steps of an episode.
SHAPES: dict[str, tuple[list[str], int, int]] = {
    "continuous": (["env=halfcheetah", "algo.agent.hidden=[256,256]", "algo.batch=256"], 1_000_000, 1_000),
    "discrete": (["env=cartpole", "algo.agent.hidden=[128,128]", "algo.batch=64"], 1_000_000, 200),
    "atari": (["env=pong", "algo.batch=32"], 20_000, 1_000),
}
# Case: what makes it equal to the peers' case, and the name of that.
CASES: dict[str, tuple[list[str], str]] = {
    "bc:continuous": (["algo.losses.bc.error=mse"], "bc_continuous"),
    "td3_bc:continuous": ([], "td3_bc"),
    "iql:continuous": ([], "iql"),
    "sac:continuous": ([], "sac"),
    "cql:continuous": ([], "cql_continuous"),
    "bcq:continuous": (["algo.agent.vae_hidden=[256,256]", "algo.losses.bcq.samples=10"], "bcq_continuous_10"),
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


def composed(algo: str, shape: str, more: list[str]) -> Experiment:
    """The experiment of a case."""
    overrides = [f"algo={algo}", *SHAPES[shape][0], *more]
    cfg = Composer(config_folder()).compose(overrides)
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return build(cfg, choices, overrides)


def made_up(env: Env, rows: int, length: int, folder: Path) -> Dataset:
    """Episodes of random numbers in the spaces of an environment, written once."""
    path = folder / f"{env.fingerprint()['id'].replace('/', '-')}-{rows}" / "data.hdf5"
    if not path.exists():
        spaces, rng = env.spaces(), np.random.default_rng(0)
        observation: Any = spaces.observation
        action: Any = spaces.action
        shape = observation.shape[1:] if env.stack > 1 else observation.shape
        writer = Writer(path.parent / "shards", spaces, env.stack)
        for _ in range(rows // length):
            if observation.dtype == np.uint8:
                seen = rng.integers(256, size=(length + 1, *shape), dtype=np.uint8)
            else:
                seen = rng.standard_normal((length + 1, *shape)).astype(np.float32)
            if spaces.actions == "discrete":
                actions = rng.integers(int(action.n), size=length)
            else:
                actions = rng.uniform(-1, 1, (length, *action.shape)).astype(np.float32)
            rewards = rng.standard_normal(length).astype(np.float32)
            writer.add(Episode(seen, actions, rewards, False, True))
        writer.finalise(path, {})
    return Dataset.open(path)


def training(case: str, members: int, folder: Path, work: Path, more: list[str]) -> Training:
    """A fit at work on made-up data; online algorithms read that too, since environments are not what is timed."""
    algo, shape = case.split(":")
    _, rows, length = SHAPES[shape]
    experiment = composed(algo, shape, [*CASES[case][0], *more])
    assert experiment.env is not None
    fit = experiment.stages["learn"]
    assert isinstance(fit, Fit)
    fit.members, fit.check.every = members, 0
    sources = fit.algo.sources
    for name, source in fit.sources().items():
        if isinstance(source, Replay | Demonstrations):
            sources[name] = Demonstrations(of="demos")
    data = made_up(experiment.env, rows, length, folder)
    log = RunLog(work / "metrics.jsonl")
    lab = Lab(
        "learn", work, experiment.env, {"demos": data}, experiment.hardware, Progress([]),
        MetricsLog(work / "stage.jsonl"), log, lambda: False, experiment.env.spaces(),
    )  # fmt: skip
    return Training(fit, lab)


def rate(fit: Training, seconds: float, repeats: int = 2) -> float:
    """Gradient steps a second, of all members together: the better of the repeats."""
    found = []
    for index in range(repeats + 1):
        count, start = 0, time.perf_counter()
        # The first one warms up.
        while time.perf_counter() - start < (seconds if index else seconds / 3) or count < 5:
            fit.step()
            count += 1
        if fit.device.type == "cuda":
            torch.cuda.synchronize()
        found.append(count * fit.learner.members / (time.perf_counter() - start))
    return max(found[1:])


def peers(path: Path | None) -> dict[str, tuple[float, str]]:
    """Best rate and whose it is, by case, of a file of JSON lines {"peer", "case", "value"}."""
    best: dict[str, tuple[float, str]] = {}
    for line in path.read_text().splitlines() if path else []:
        row = json.loads(line)
        if row["unit"] == "updates/s" and row["value"] > best.get(row["case"], (0.0, ""))[0]:
            best[row["case"]] = (row["value"], row["peer"])
    return best


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of two timings, the better of which counts")
    parser.add_argument("--members", type=int, default=1, help="agents trained at once; the rate is of all together")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 = as a run would choose")
    parser.add_argument("--hardware", default="cpu", help="an option of the group hardware")
    parser.add_argument("--peers", type=Path, help="JSON lines with peers' rates, measured on this machine")
    parser.add_argument("--data", type=Path, default=Path("outputs/benchmark"), help="where the made-up data is kept")
    given = parser.parse_args(arguments)
    if unknown := [case for case in given.cases if case not in CASES]:
        raise Refused(f"no case is called {unknown[0]!r}; known: {', '.join(CASES)}")
    register()
    theirs = peers(given.peers)
    print(f"{'case':<16}  {'updates/s':>9}  {'best peer':>9}  ratio")
    for case in given.cases:
        more = [f"hardware={given.hardware}", f"hardware.threads={given.threads}"]
        with TemporaryDirectory() as work, training(case, given.members, given.data, Path(work), more) as fit:
            ours = rate(fit, given.seconds)
        peer, name = theirs.get(CASES[case][1], (0.0, ""))
        beside = f"{peer:9.1f}  {ours / peer:5.2f} {name}" if peer else f"{'–':>9}"
        print(f"{case:<16}  {ours:9.1f}  {beside}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Ending as ending:
        sys.exit(f"benchmark: {ending}")
