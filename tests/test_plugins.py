"""Classes that other packages register: wrong ones are left out with a message, their errors name the package."""

import sys
from pathlib import Path

import pytest

from lfd import registry
from lfd.cli import main as cli
from lfd.errors import PLUGIN_MODULES

ENTRIES = """[lfd.loss]
broken = plugged_broken:Loss
nothing = plugged:nothing
odd = plugged:Odd
raising = plugged:Raising
leaving = plugged:Leaving
"""
MODULE = """
from dataclasses import dataclass
from lfd.agents.actor_critic import PolicyAgent
from lfd.algos.bc import BC
nothing = 3
@dataclass
class Odd(BC):
    x: "set[bytes]" = None
@dataclass
class Raising(BC):
    def __call__(self, agent, batch):
        raise KeyError("mine")
@dataclass
class Leaving(BC):
    def __call__(self, agent, batch):
        raise SystemExit(3)
"""
MESSAGES = {
    "broken": "importing lfd.loss: broken = plugged_broken:Loss of the package plugged failed with ModuleNotFoundError",
    "nothing": "lfd.loss: nothing = plugged:nothing of the package plugged: expected a dataclass that is a Loss",
    "odd": "lfd.loss: odd: expected fields of types of OmegaConf: Unexpected type annotation",
    "raising": "the module plugged of the package plugged failed with KeyError: 'mine'; HYDRA_FULL",
    "leaving": "of the package plugged failed with SystemExit: 3; HYDRA_FULL_ERROR=1 shows the traceback",
}
TINY = ["dataset=random", "dataset.transitions=100", "learn.steps=5", "learn.eval.every=0", "score.episodes=1"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the package, and an algorithm with each of its losses."""
    info = tmp_path / "lib" / "plugged-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (tmp_path / "lib" / "plugged.py").write_text(MODULE)
    (tmp_path / "lib" / "plugged_broken.py").write_text("import a_library_that_is_not_there")
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    for name in MESSAGES:
        line = f"defaults: [schema, /agent@agent: policy, /loss@losses.mine: {name}, _self_]"
        (tmp_path / "mine" / "algo" / f"{name}.yaml").write_text(f"{line}\nlosses: {{mine: {{reads: demos}}}}\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    registry.parts.cache_clear()
    yield
    registry.parts.cache_clear()
    registry.BROKEN.clear()
    PLUGIN_MODULES.clear()
    for name in ("plugged", "plugged_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", MESSAGES)
def test_class_that_cannot_be_used_is_refused_by_its_name(
    name: str, package: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--config-dir", "mine", f"algo={name}", *TINY])
    code, lines = cli.run(), capsys.readouterr().err.splitlines()
    assert code == 2 and lines[-1].startswith("lfd: ") and MESSAGES[name] in lines[-1], lines
    # Each class that is left out has one message.
    assert [line.startswith("left out: ") for line in lines].count(True) == 3


def test_system_exit_of_a_plugin_ends_its_job_only(
    package: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "-m", "--config-dir", "mine", "algo=leaving,bc", *TINY])
    assert cli.run() == 2
    out = capsys.readouterr().out
    assert "failed with SystemExit" in out and "bc" in out and out.splitlines()[-1].endswith("sweep.json")
