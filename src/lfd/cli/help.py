"""The page of `--help`, made from the files of conf/ without importing torch or Hydra."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from lfd.errors import EXIT_CODES

WIDTH = 100

# Groups that users choose from; files of these groups choose the other groups.
GROUPS = {
    "algo": "the algorithm",
    "env": "the environment",
    "dataset": "the demonstrations",
    "expert": "the expert, which makes the demonstrations",
    "pipeline": "the stages; `algo` sets it",
    "ope": "off-policy evaluation: scores a policy from data, without an environment",
    "experiment": "files that set several groups and keys at once",
    "hardware": "the device",
    "logger": "a second place for the metrics",
}

KEYS = {
    "seed=1": "seed of the training; expert and demonstrations have their own, expert.seed and dataset.seed",
    "learn.steps=5_000": "gradient steps of the training; expert.steps are those of the expert",
    "learn.stop.score=475": "end the training once an evaluation reaches this mean return",
    "algo.lr=1e-3": "hyperparameters of the algorithm; those of the expert are under expert_algo",
    "algo.losses.cql.weight=2": "weight of a loss: a number or a schedule {start: 1, end: 0, over: 2_000}",
    "dataset.transitions=20_000": "amount of data; or dataset.transitions=null dataset.episodes=50",
    "score.episodes=100": "episodes of the final evaluation",
    "ope=fqe": "score by FQE too; with env=none dataset.path=... no simulator is needed",
    "rl_algo=sac": "the algorithm that learns from the learned reward of gail, airl, pwil, trex or drex",
    "env=gym env.id=FrozenLake-v1": "any environment that is registered with Gymnasium",
    "outputs=elsewhere": "the folder of all runs and artifacts",
    "dry_run=true": "print the stages, their state and their estimated cost; run nothing",
}

EXAMPLES = {
    "": "CQL on data of a PPO expert, in CartPole",
    "algo=bc env=pendulum": "behavior cloning in Pendulum",
    "dataset=noisy_expert dataset.epsilon=0.3": "data of an expert with 30 % random actions",
    "algo=ppo_bc learn.steps=5_000": "PPO with a behavior cloning loss",
    "algo=dagger env=pendulum": "DAgger: the expert labels the states that the policy visits",
    "algo=dagger expert=queue": "DAgger with your labels, given by scripts/label.py",
    "algo=gail env=acrobot": "adversarial imitation of ten episodes",
    "algo=trex env=pendulum": "a reward learned from ranked demonstrations, then an agent trained on it",
    "-m algo=bc,cql seed=0,1,2 hydra/launcher=joblib": "six runs, in parallel, with the same expert",
}

RESULTS = {
    "outputs/runs/<algo>-<env>-s<seed>-<hash>/": "result.json, report.html, curves.png, metrics.jsonl, config.yaml",
    "outputs/sweeps/<hash>/": "sweep.json and sweep.html of a sweep",
    "outputs/artifacts/": "experts, datasets and agents, which later runs use again",
}

FLAGS = {
    "-m, --multirun": "run a job of each combination of values that are separated by commas",
    "--cfg job": "print the composed configuration",
    "--info": "print how the configuration is composed",
    "--config-dir DIR": "a folder of your own options, DIR/<group>/<option>.yaml",
    "--version": "print the version",
}


def page(folder: Path, program: str) -> str:
    """The help page.

    Args:
        folder: conf/, whose files begin with a comment that describes the option.
        program: the command of this program, as "python run.py".
    """
    selected = defaults(folder)
    parts = [
        "lfd: learning from demonstrations.\n"
        "Trains an expert, collects demonstrations, trains a policy on them and evaluates it.",
        f"usage: {program} [group=option] [key=value] ...\n       {program} -m [key=value,value] ...",
        "Examples\n" + _rows({f"{program} {line}".strip(): text for line, text in EXAMPLES.items()}),
        "Groups and their options (* is the default)",
        *(_group(folder, group, selected.get(group, "")) for group in GROUPS),
        "Common keys (`--cfg job` prints all keys)\n" + _rows(KEYS),
        "Results\n" + _rows(RESULTS) + f"\n{_filled('The last printed line is the path of result.json.', 2)}",
        "Flags\n" + _rows(FLAGS),
        "Exit codes\n" + _rows({str(code): EXIT_CODES[code] for code in sorted(EXIT_CODES)}),
    ]
    return "\n\n".join(parts)


def options(folder: Path, group: str) -> dict[str, str]:
    """The options of a group, each with the first comment of its file."""
    return {path.stem: _comment(path) for path in sorted((folder / group).glob("*.yaml"))}


def defaults(folder: Path) -> dict[str, str]:
    """The default option of each group, read from conf/config.yaml."""
    return dict(re.findall(r"^  - (\w+): (\w+)", (folder / "config.yaml").read_text(), re.MULTILINE))


def _comment(path: Path) -> str:
    for line in path.read_text().splitlines():
        text = line.removeprefix("#").strip()
        if line.startswith("#") and not text.startswith("@package"):
            return text
    return ""


def _group(folder: Path, group: str, selected: str) -> str:
    rows = {("* " if name == selected else "  ") + name: text for name, text in options(folder, group).items()}
    return f"  {group}: {GROUPS[group]}\n{_rows(rows)}"


def _rows(rows: dict[str, str]) -> str:
    """Two columns of text, the second one wrapped."""
    width = max(map(len, rows))
    lines = []
    for name, text in rows.items():
        head = f"  {name:<{width}}  "
        lines.append(_filled(text, len(head), head) if text else head.rstrip())
    return "\n".join(lines)


def _filled(text: str, indent: int, head: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=head or " " * indent, subsequent_indent=" " * indent, break_on_hyphens=False
    )
