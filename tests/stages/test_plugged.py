"""Sources and stages of a plugin are checked, estimated, run and stored like those of lfd."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lfd import registry
from lfd.cli import main as cli
from lfd.errors import PLUGIN_MODULES

ENTRIES = """[lfd.source]
pushed = tests.stages.plugged:Pushed
[lfd.stage]
longest = tests.stages.plugged:Longest
fixed = tests.stages.plugged:Fixed
"""
ALGO = """
defaults: [schema, /net@agent.nets.policy: policy, /loss@losses.bc: bc, /source@sources.pushed: pushed,
           /source@sources.mixed: mix, _self_]
losses: {bc: {reads: mixed}}
sources: {mixed: {fractions: {pushed: 0.25, best: 0.75}}}
batch_size: 16
"""
LINE = [
    "--config-dir", "mine", "algo=mine", "dataset=random", "dataset.transitions=300", "dataset.num_envs=2",
    "+stage@best=longest", "+stage@fixed=fixed", "learn.steps=20", "learn.eval.every=0", "score.episodes=2",
    "score.policies=[learn,fixed]",
]  # fmt: skip
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """A command line, where the package is installed: exit code, stdout, stderr."""
    info = tmp_path / "lib" / "plugged-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "mine.yaml").write_text(ALGO)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.01)
    registry.parts.cache_clear()

    def called(*more: str) -> tuple[int, str, str]:
        changed = {one.partition("=")[0] for one in more}
        line = [one for one in LINE if one.partition("=")[0] not in changed]
        monkeypatch.setattr(sys, "argv", ["run.py", *line, *more])
        code = cli.run()
        output = capsys.readouterr()
        return code, output.out, output.err

    yield called
    registry.parts.cache_clear()
    registry.BROKEN.clear()
    PLUGIN_MODULES.clear()


def test_dry_run_estimates_plugin_sources_and_stages(call: Call, tmp_path: Path) -> None:
    code, output, told = call("learn.steps=2_000_000_000", "dry_run=true")
    assert code == 0, told
    table = {line.split()[0]: line for line in output.split("\n\n")[0].splitlines()[2:]}
    assert list(table) == ["demos", "best", "learn", "fixed", "score", "total"]
    assert " longest " in table["best"] and " 2 episodes " in table["best"]
    # 2 episodes of 500 transitions of 4 numbers, an action, a reward and two flags.
    assert table["best"].endswith(" 30kB") and " – " in table["fixed"]
    # Its environment steps, of which each takes a few microseconds at least, take longer than a day.
    assert "more than a day, most of it for learn" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lib", "mine"]


def test_dry_run_of_a_long_plugin_stage_names_ways_to_shorten_it(call: Call) -> None:
    code, output, told = call(
        "dataset.transitions=null", "dataset.episodes=2", "best.episodes=100_000_000_000", "dry_run=true"
    )
    assert code == 0, told
    assert "more than a day, most of it for best: set fewer best.episodes; " in output


def test_run_makes_plugin_products_and_the_next_run_finds_them(call: Call, tmp_path: Path) -> None:
    code, _, told = call()
    assert code == 0, told
    (path,) = tmp_path.glob("outputs/runs/*/result.json")
    result = json.loads(path.read_text())
    assert set(result["scores"]) == {"learn", "fixed", "random", "demos"}
    # A cart that is always pushed to one side falls after about 10 steps.
    assert 5 < result["scores"]["fixed"]["return_mean"] < 15
    assert result["stages"]["learn"]["env_steps"] == 20 * 4
    assert result["stages"]["best"]["artifact"].startswith("longest-") and not result["stages"]["best"]["cached"]
    artifact = json.loads(
        (tmp_path / "outputs" / "artifacts" / result["stages"]["learn"]["artifact"] / "artifact.json").read_text()
    )
    assert result["stages"]["best"]["artifact"] in artifact["inputs"].values()
    assert call()[0] == 0
    assert all(stage["cached"] for stage in json.loads(path.read_text())["stages"].values())


REFUSED = {
    "learn.members=2": "learn: pushed is for one agent, there are 2; set members=1",
    "best.episodes=400": "best.episodes=400: 'demos' has 300 rows; ask for fewer",
    "score.policies=[fixed@1]": "score: fixed@1: one action has no earlier states",
    "best.data=learn": "best: needs a dataset, which 'learn' (fit) does not provide",
    "score.policies=[best]": "score: needs an actor, which 'best' (longest) does not provide",
    "learn.init_from=fixed": "learn: needs a policy, which 'fixed' (fixed) does not provide",
}


@pytest.mark.parametrize(("change", "message"), REFUSED.items(), ids=REFUSED)
def test_run_refused_by_a_plugin_makes_nothing(call: Call, tmp_path: Path, change: str, message: str) -> None:
    code, _, told = call(change)
    assert code == 2 and f"lfd: {message}" in told.splitlines()[-1], told
    assert not (tmp_path / "outputs").exists()
