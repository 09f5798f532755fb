"""The page that `--help` prints, made from conf/ alone: neither torch nor Hydra is imported for it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

WIDTH = 100

# Groups that people choose from; the others are chosen by these.
GROUPS = {
    "algo": "what learns",
    "env": "where it acts",
    "dataset": "what the demonstrations are",
    "expert": "where they come from",
    "pipeline": "which stages there are",
    "hardware": "what it runs on",
    "logger": "who else sees the numbers",
}

KEYS = {
    "seed=1": "the learner's; expert.seed and dataset.seed are their own, so that seeds share both",
    "learn.steps=5_000": "gradient steps of the learner; expert.steps are the expert's",
    "learn.stop.score=475": "stop once a check of the learner reaches this mean return",
    "algo.lr=1e-3": "any number of the algorithm; the expert's are under expert_algo",
    "algo.losses.gap.weight=2": "how much a loss counts: a number or {start: 1, end: 0, steps: 2_000}",
    "dataset.transitions=20_000": "how much data; or dataset.transitions=null dataset.episodes=50",
    "score.episodes=100": "episodes that the final score is the mean of",
    "targets=[score,fqe]": "score by FQE too, from the data alone; env=none dataset.path=... needs no simulator at all",
    "env=gym env.id=FrozenLake-v1": "any environment that Gymnasium knows",
    "outputs=elsewhere": "the folder that everything is kept in",
    "dry_run=true": "show the stages, what is stored and what it would take; run nothing",
}

EXAMPLES = {
    "": "CQL from a PPO expert, in CartPole",
    "algo=bc env=pendulum": "cloning instead, in Pendulum",
    "dataset=noisy_expert dataset.epsilon=0.3": "from a worse teacher",
    "algo=ppo_bc learn.steps=5_000": "PPO and cloning at once",
    "algo=dagger env=pendulum": "the learner drives, the expert says what it should have done",
    "algo=dagger expert=queue": "you are the expert: states wait for your labels (scripts/label.py)",
    "algo=gail env=acrobot": "adversarial imitation of ten episodes",
    "algo=trex env=pendulum": "a reward from ranked demonstrations, then an agent that learns from it",
    "-m algo=bc,cql seed=0,1,2 hydra/launcher=joblib": "six runs from one expert",
}

RESULTS = {
    "outputs/runs/<algo>-<env>-s<seed>-<hash>/": "result.json, report.html, curves.png, metrics.jsonl, config.yaml",
    "outputs/sweeps/<hash>/": "sweep.json and sweep.html of a sweep",
    "outputs/artifacts/": "experts, datasets and agents; nothing in it is computed twice",
}

FLAGS = {
    "-m, --multirun": "run all combinations of values that are separated by commas",
    "--cfg job": "print the composed configuration",
    "--info": "print how it was composed",
    "--config-dir DIR": "options of your own, as DIR/<group>/<option>.yaml",
    "--version": "print the version",
}

EXITS = {
    "0": "done",
    "1": "a fault of ours; HYDRA_FULL_ERROR=1 shows the traceback",
    "2": "wrong configuration or input; nothing was changed",
    "3": "labels are needed from outside",
    "4": "the training diverged",
    "74": "the disk is full; the same command continues once there is space",
    "75": "stopped; the same command continues",
}


def page(folder: Path, program: str) -> str:
    """The help page.

    Args:
        folder: conf/, whose files begin with a comment that says what the option is.
        program: how this program is called, as "python run.py".
    """
    chosen = defaults(folder)
    parts = [
        "lfd: learning from demonstrations.\n"
        "Trains an expert, collects its demonstrations, learns from them and scores the result.",
        f"usage: {program} [group=option] [key=value] ...\n       {program} -m [key=value,value] ...",
        "Examples\n" + _rows({f"{program} {line}".strip(): what for line, what in EXAMPLES.items()}),
        "Groups, each with its options (* is chosen when you say nothing)",
        *(_group(folder, group, chosen.get(group, "")) for group in GROUPS),
        "Keys that are often set (`--cfg job` prints all of them)\n" + _rows(KEYS),
        "Results\n" + _rows(RESULTS) + f"\n{_filled('The last line printed is the path of result.json.', 2)}",
        "Flags\n" + _rows(FLAGS),
        "Exit codes\n" + _rows(EXITS),
    ]
    return "\n\n".join(parts)


def options(folder: Path, group: str) -> dict[str, str]:
    """The options of a group and what the first comment in each one's file says."""
    return {path.stem: _comment(path) for path in sorted((folder / group).glob("*.yaml"))}


def defaults(folder: Path) -> dict[str, str]:
    """Which option of each group stands in the defaults list of conf/config.yaml."""
    return dict(re.findall(r"^  - (\w+): (\w+)", (folder / "config.yaml").read_text(), re.MULTILINE))


def _comment(path: Path) -> str:
    for line in path.read_text().splitlines():
        text = line.removeprefix("#").strip()
        if line.startswith("#") and not text.startswith("@package"):
            return text
    return ""


def _group(folder: Path, group: str, chosen: str) -> str:
    rows = {("* " if name == chosen else "  ") + name: what for name, what in options(folder, group).items()}
    return f"  {group}: {GROUPS[group]}\n{_rows(rows)}"


def _rows(rows: dict[str, str]) -> str:
    """Two columns, the second one wrapped."""
    width = max(map(len, rows))
    lines = []
    for name, what in rows.items():
        head = f"  {name:<{width}}  "
        lines.append(head.rstrip() if not what else _filled(what, len(head), head))
    return "\n".join(lines)


def _filled(text: str, indent: int, head: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=head or " " * indent, subsequent_indent=" " * indent, break_on_hyphens=False
    )
