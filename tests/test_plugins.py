"""Classes that other packages register: wrong ones are left out with a message, their errors name the package."""

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import lfd
from lfd import registry
from lfd.cli import main as cli
from lfd.errors import PLUGIN_MODULES, UserError
from lfd.stages.load import Load

ENTRIES = """[lfd.loss]
broken = plugged_broken:Loss
nothing = plugged:nothing
odd = plugged:Odd
raising = plugged:Raising
leaving = plugged:Leaving
"""
MODULE = """
from dataclasses import dataclass
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
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, dict[str, str]], None]]:
    """Installs a package by its entry points and modules, for this test."""
    installed = []

    def write(entry_points: str, modules: dict[str, str]) -> None:
        info = tmp_path / "lib" / "plugged-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        for name, code in modules.items():
            (tmp_path / "lib" / f"{name}.py").write_text(code)
        installed.extend(modules)
        monkeypatch.syspath_prepend(tmp_path / "lib")
        registry.parts.cache_clear()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    yield write
    registry.parts.cache_clear()
    registry.BROKEN.clear()
    PLUGIN_MODULES.clear()
    for name in installed:
        sys.modules.pop(name, None)


@pytest.fixture
def package(install: Callable[[str, dict[str, str]], None], tmp_path: Path) -> None:
    """Installs the package, and an algorithm with each of its losses."""
    install(ENTRIES, {"plugged": MODULE, "plugged_broken": "import a_library_that_is_not_there"})
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    for name in MESSAGES:
        line = f"defaults: [schema, /net@agent.nets.policy: policy, /loss@losses.mine: {name}, _self_]"
        (tmp_path / "mine" / "algo" / f"{name}.yaml").write_text(f"{line}\nlosses: {{mine: {{reads: demos}}}}\n")


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


PARTS = """
import torch
from dataclasses import dataclass
from torch import nn
from lfd.agents import ActingRule, ActingSpec
from lfd.agents.memory import Memory, MemorySpec
from lfd.agents.nets import PolicyHead, PolicySpec
from lfd.agents.roles import POLICY
@dataclass
class Scaled(PolicySpec):
    scale: float = 0.5
    def build(self, inputs):
        policy = super().build(inputs)
        policy.net.head[-1].weight.data *= self.scale
        return policy
class LSTM(Memory):
    def __init__(self, inputs, units):
        super().__init__()
        self.features, self.cell = units, nn.LSTMCell(inputs, units)
    def initial_state(self, number):
        return {"hidden": torch.zeros(number, self.features), "cell": torch.zeros(number, self.features)}
    def forward(self, features, state):
        hidden, cell = self.cell(features, (state["hidden"], state["cell"]))
        return hidden, {"hidden": hidden, "cell": cell}
@dataclass
class LSTMSpec(MemorySpec):
    units: int = 8
    def build(self, inputs):
        return LSTM(inputs, self.units)
class Fixed(ActingRule):
    def __init__(self, action):
        super().__init__()
        self.register_buffer("action", torch.tensor(action))
    def forward(self, agent, obs, rng):
        return self.action.expand(agent.policy(obs).mode().shape)
@dataclass
class FixedSpec(ActingSpec):
    action: int = 1
    def uses(self, spaces):
        return {"policy": POLICY}
    def build(self, spaces):
        return Fixed(self.action)
"""
PART_ENTRIES = """[lfd.net]
scaled = plugged_parts:Scaled
[lfd.memory]
lstm = plugged_parts:LSTMSpec
[lfd.acts_by]
fixed = plugged_parts:FixedSpec
"""
PART_ALGO = """
defaults:
  - schema
  - /net@agent.nets.policy: scaled
  - /memory@agent.memory: lstm
  - /acts_by@agent.acts_by: fixed
  - /loss@losses.bc: bc
  - _self_
agent: {nets: {policy: {scale: 2}}, memory: {units: 4}}
losses: {bc: {reads: demos}}
batch_size: 8
sequence_length: 4
"""


def test_net_memory_and_acting_rule_of_a_package_train_and_are_read_back(
    install: Callable[[str, dict[str, str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(PART_ENTRIES, {"plugged_parts": PARTS})
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "parts.yaml").write_text(PART_ALGO)
    monkeypatch.setattr(sys, "argv", ["run.py", "--config-dir", "mine", "algo=parts", *TINY])
    assert cli.run() == 0
    policy = lfd.load(max(tmp_path.glob("outputs/runs/*")))
    assert [type(part).__name__ for part in (policy.agent.nets["memory"], policy.agent.rule)] == ["LSTM", "Fixed"]
    weights = policy.agent.nets["memory"].state_dict()["cell.weight_hh"]
    assert weights.shape == (16, 4)
    policy.agent.rule.action.fill_(0)  # type: ignore[union-attr, operator]
    assert policy.act(np.zeros(4, np.float32)) == 0
    (stored,) = tmp_path.glob("outputs/artifacts/fit-*/agent.json")
    described = json.loads(stored.read_text())["agent"]["fields"]
    assert described["nets"]["policy"]["part"] == "net/scaled" and described["memory"]["part"] == "memory/lstm"
    registry.parts.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    with pytest.raises(UserError, match="net: expected an installed class, got 'scaled'"):
        lfd.load(max(tmp_path.glob("outputs/runs/*")))


@pytest.fixture
def documented(install: Callable[[str, dict[str, str]], None], tmp_path: Path) -> list[list[str]]:
    """Installs the package of docs/extending.md, and writes a CSV file; returns the page's command lines for it."""
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
    files = dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    groups = tomllib.loads(files["pyproject.toml"])["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in names.items())
        for group, names in groups.items()
    ]
    install("".join(lines), {"my_package": files["my_package.py"]})
    option = tmp_path / "mine" / "algo" / "clipped_bc.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(files["mine/algo/clipped_bc.yaml"])
    rows = [f"{row // 11},{row % 2},1.0,{row},0,0,0" for row in range(44)]
    (tmp_path / "demos.csv").write_text("\n".join(["episode,action,reward,x,v,angle,w", *rows]))
    return [line.split()[2:] for line in re.findall(r"^python run.py.*algo=clipped_bc.*$", page, re.MULTILINE)]


def test_documented_package_trains_by_its_loss_and_reads_by_its_reader(
    documented: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    datasets = []
    for line in documented:
        data = [] if "dataset=file" in line else ["dataset=random", "dataset.transitions=100"]
        monkeypatch.setattr(sys, "argv", ["run.py", *line, *data, *TINY[3:], "learn.steps=100"])
        assert cli.run() == 0, line
        assert "learn/clipped_bc/clipped_bc_loss" in max(tmp_path.glob("outputs/runs/*/metrics.jsonl")).read_text()
        datasets.append(
            [json.loads(path.read_text()) for path in tmp_path.glob("outputs/artifacts/load-*/metadata.json")]
        )
    assert [[data["ends"]["terminated"], data["transitions"]] for data in datasets[-1]] == [[4, 40]]


def test_key_of_data_that_a_package_reads_has_its_version(documented: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "demos.npz").touch()
    own, other = (
        Load(str(tmp_path / name)).key_content(lambda path: "hash").path for name in ("demos.csv", "demos.npz")
    )
    assert (own, other) == ("hash plugged 1.0", "hash")
