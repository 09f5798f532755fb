"""README.md and docs/: their command lines compose, their keys, files, links and tests exist, and nothing is lost."""

import json
import re
import runpy
import shlex
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from lfd.cli.help import options
from lfd.config.composer import Composer
from lfd.config.experiment import refuse_unread, unread
from lfd.config.folder import config_folder
from lfd.runs.run import pipeline_of
from lfd.store.artifacts import Store

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Command lines that need what a reader has and this test has not.
SKIPPED = {"algo=clipped_bc", "expert.path=outputs/runs/ppo-cartpole-s0-…", "algo=…", "--help", "--cfg"}
# Files that a reader writes.
READERS_FILES = ("src/lfd/algos/mine.py", "conf/algo/mine.yaml", "conf/local/default.yaml")
# Experiments that together have all keys that the pages mention.
COMPOSED = [
    "algo=cql expert=queue logger=wandb ope=fqe targets=[score,fqe]",
    "algo=crr",
    "algo=ppo pipeline=bc_then_ppo",
    "algo=dagger",
    "algo=gail expert=script expert.script=tests.experts:guess",
    "algo=bc env=none dataset.path=demos.npz dataset.max_episode_steps=500",
]
# Dotted words in backquotes that are no keys of a configuration.
NO_KEYS = re.compile(r"\.(py|ya?ml|json|jsonl|html|png|hdf5|npz|md|txt|safetensors)$|^(lfd|nn|torch)\.")


def blocks(language: str) -> list[str]:
    return [code for page in PAGES.values() for name, code in FENCE.findall(page) if name == language]


def inline(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page).replace("\n", " "))


def command_lines() -> list[str]:
    """All `python run.py …` of the pages, without comments."""
    lines = [line for code in blocks("") for line in code.splitlines()]
    lines += [span for page in PAGES.values() for span in inline(page)]
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.startswith("python run.py")]
    return [line for line in dict.fromkeys(lines) if not any(word in line for word in SKIPPED)]


def jobs(line: str) -> list[list[str]]:
    """The overrides of a command line, of each job where it is a sweep."""
    words = [word for word in shlex.split(line)[2:] if word != "-m"]
    if "--config-dir" in words:
        place = words.index("--config-dir")
        words = words[:place] + words[place + 2 :]
    words = [word for word in words if not word.startswith("hydra/")]
    if "-m" not in line.split():
        return [words]
    values = []
    for word in words:
        key, _, value = word.partition("=")
        glob = re.fullmatch(r"glob\((\w+)\*\)", value)
        named = [name for name in options(config_folder(), key) if name.startswith(glob[1])] if glob else []
        values.append([f"{key}={one}" for one in named or re.split(r",(?![^\[{]*[\]}])", value)])
    return [list(job) for job in product(*values)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A reader's folder: files that the pages show, by their first line, and demonstrations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for code in blocks("yaml") + blocks("python"):
        if named := re.match(r"(?:# @package _global_\n)?# ([\w/]+\.(?:yaml|py))\n", code):
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
    rows, starts = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32), np.arange(40) % 10 == 0
    columns = {"obs": rows, "actions": np.arange(40) % 2, "rewards": np.ones(40, np.float32), "episode_starts": starts}
    np.savez("demos.npz", **columns)
    np.savez("moves.npz", **{**columns, "actions": np.tanh(rows[:, :1])})
    with h5py.File("demos.hdf5", "w") as file:
        for name in ("actions", "rewards"):
            file[name] = columns[name]
        file["observations"], file["terminals"], file["timeouts"] = rows, np.roll(starts, -1), np.zeros(40, bool)
    return tmp_path


def check_job(words: list[str], own: Path | None) -> str:
    """Composes a job and checks its wiring; returns its configuration."""
    experiment = Composer(own).experiment(words)
    with Store(Path("outputs/artifacts")) as store:
        refuse_unread(unread(experiment, pipeline_of(experiment, store).order))
    return experiment.config


@pytest.mark.parametrize("line", command_lines())
def test_command_line_of_the_pages_composes_and_is_wired(line, folder):
    own = folder / "mine" if "--config-dir" in line else None
    for words in jobs(line):
        check_job(words, own)


def keys_of(value, prefix: str = "") -> set[str]:
    """Dotted keys of a configuration, of lists of mappings none."""
    if not isinstance(value, dict):
        return set()
    return {f"{prefix}{key}" for key in value}.union(*(keys_of(one, f"{prefix}{key}.") for key, one in value.items()))


def test_keys_and_options_that_the_pages_mention_exist(folder):
    lines = [line.split() for line in COMPOSED]
    known = set().union(*(keys_of(yaml.safe_load(Composer().experiment(words).config)) for words in lines))
    words = [word for page in PAGES.values() for span in inline(page) for word in span.split()]
    words = [word for word in words if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+(=\S+)?|[a-z_]+=[\w]+", word)]
    for word in words:
        key, _, value = word.partition("=")
        if key in known or NO_KEYS.search(key):
            continue
        group = "algo" if key == "rl_algo" else key
        assert value in options(config_folder(), group) or value in ("mine", "x"), (
            f"{word}: expected a key or an option that exists"
        )


def test_files_that_the_pages_mention_exist():
    for name, page in PAGES.items():
        for span in inline(page):
            for path in re.findall(r"(?:src|conf|scripts|tests|docs)/[\w/.]+", span):
                assert (ROOT / path).exists() or path in READERS_FILES or "mine/" in span, f"{name}: {path}"


def test_links_lead_to_files_and_headings():
    for name, page in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page)):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            other = (ROOT / name).parent / path if path else ROOT / name
            assert other.exists(), f"{name}: {target}"
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", other.read_text()), re.MULTILINE) if anchor else []
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert not anchor or anchor in anchors, f"{name}: {target}; known: {anchors}"


def test_readme_is_short_and_links_every_page():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 200
    assert all(f"({name})" in readme for name in PAGES if name != "README.md")


def test_slow_tests_that_the_pages_name_exist():
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
    names = [name for page in PAGES.values() for name in re.findall(r"pytest -m slow -k (\w+)", page)]
    assert names and all(re.search(rf"def test_\w*{name}\w*\(", code) for name in names), names


def test_scripts_that_the_pages_call_have_these_commands_and_flags():
    for page in PAGES.values():
        for script, words in re.findall(r"python (scripts/\w+\.py)([^`\n#]*)", page):
            code = (ROOT / script).read_text()
            for word in words.split():
                assert not re.fullmatch(r"--[\w-]+|[a-z]+", word) or f'"{word}"' in code, f"{script} {word}"


@pytest.fixture
def sweep(tmp_path):
    """A stored sweep of two algorithms in two environments, with two seeds, one job of which has failed."""
    groups = []
    for algo, env, returns in [
        ("bc", "cartpole", [500.0, 9.25]),
        ("bc", "pendulum", [-181.0]),
        ("cql", "cartpole", [1e3]),
    ]:
        runs = [f"{algo}-{env}-s{seed}" for seed in range(len(returns))]
        for run in runs:
            folder = tmp_path / "runs" / run
            folder.mkdir(parents=True)
            made = {"time": "2026-11-28T09:00:00+00:00", "platform": "Linux", "cpus": 2, "device": "cpu"}
            (folder / "provenance.json").write_text(json.dumps(made))
            (folder / "result.json").write_text(json.dumps({"options": {"algo": algo, "env": env}}))
        seeds = [str(seed) for seed in range(len(returns))]
        groups.append({"overrides": {"algo": algo, "env": env}, "seeds": seeds, "returns": returns, "runs": runs})
    content = {"common": {"score.episodes": "100"}, "varies": ["algo", "env"], "groups": groups, "failures": [{}]}
    folder = tmp_path / "sweeps" / "0a1b"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


def test_scores_script_prints_a_sweep_with_command_date_machine_and_seeds(sweep, capsys):
    script = runpy.run_path(str(ROOT / "scripts" / "scores.py"))
    assert script["main"]([str(sweep)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "`python run.py -m score.episodes=100 algo=bc,cql env=cartpole,pendulum seed=0,1`, 2026-11-28, Linux, 2 CPUs, "
        "cpu, seeds 0, 1. 1 jobs have no score.",
        "",
        "| | cartpole | pendulum |",
        "|---|---|---|",
        "| bc | 500.0, 9.25 | -181.0 |",
        "| cql | 1,000.0 | – |",
    ]
    (sweep / "sweep.json").write_text(json.dumps({"common": {}, "groups": [], "failures": []}))
    assert script["main"]([str(sweep)]) == 2 and "expected a sweep with scores, got none" in capsys.readouterr().err


def test_benchmark_script_prints_a_row_of_the_page():
    row = runpy.run_path(str(ROOT / "scripts" / "benchmark.py"))["markdown_row"]
    assert row("cql:continuous", 11.24, 9.1, "CORL") == "| cql:continuous | 11.2 | 9.1 CORL | 1.2 |"
    assert row("bc:discrete", 1149.3, 0.0, "") == "| bc:discrete | 1,149 | – | – |"
