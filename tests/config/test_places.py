"""Classes that a configuration names by their place, `module:Class`, and kinds of actions that nobody types."""

import json
import sys

import numpy as np
import pytest

import lfd
from lfd import registry
from lfd.cli import main as cli
from lfd.config.composer import Composer
from lfd.errors import PLUGIN_MODULES, UserError
from lfd.runs.run import pipeline_of
from lfd.store.artifacts import Store

MODULE = """
from dataclasses import dataclass
from lfd.agents.memory import GRUSpec
from lfd.agents.nets import PolicySpec
from lfd.algos.bc import BC
@dataclass
class MyLoss(BC):
    gain: float = 1.0
@dataclass
class MyPolicy(PolicySpec):
    wide: bool = False
@dataclass
class MyMemory(GRUSpec):
    pass
@dataclass
class Odd(BC):
    x: "set[bytes]" = None
class Plain:
    pass
"""
ALGO = """
defaults:
  - schema
  - /net@agent.nets.policy: my_parts:MyPolicy
  - /memory@agent.memory: my_parts:MyMemory
  - /loss@losses.mine: my_parts:MyLoss
  - _self_
agent: {memory: {units: 4}}
losses: {mine: {reads: demos, gain: 2}}
batch_size: 16
sequence_length: 4
"""
TINY = ["dataset=random", "dataset.transitions=100", "learn.steps=3", "learn.eval.every=0", "score.episodes=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the module, where Python finds it, and an algorithm with its classes."""
    (tmp_path / "my_parts.py").write_text(MODULE)
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "mine.yaml").write_text(ALGO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    registry.BY_PLACE.clear()
    PLUGIN_MODULES.clear()
    sys.modules.pop("my_parts", None)


def test_classes_named_by_their_places_train_and_are_read_back(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--config-dir", "mine", "algo=mine", *TINY])
    assert cli.run() == 0, capsys.readouterr().err
    (path,) = folder.glob("outputs/artifacts/fit-*/agent.json")
    agent = json.loads(path.read_text())["agent"]["fields"]
    assert agent["nets"]["policy"]["part"] == "net/my_parts:MyPolicy"
    assert agent["memory"]["part"] == "memory/my_parts:MyMemory"


def test_key_of_a_class_named_by_its_place_has_the_content_of_its_file(folder):
    def key():
        line = ["algo=bc", "+loss@algo.losses.more=my_parts:MyLoss", "algo.losses.more.reads=demos"]
        with Store(folder / "store") as store:
            return pipeline_of(Composer().experiment(line), store).keys["learn"]

    first = key()
    assert key() == first
    (folder / "my_parts.py").write_text(MODULE + "# changed\n")
    assert key() != first


REFUSED = {
    "my_parts:Plain": "loss=my_parts:Plain: expected a dataclass that is a Loss, got <class",
    "my_parts:MyPolicy": "loss=my_parts:MyPolicy: expected a dataclass that is a Loss, got <class",
    "my_parts:Nothing": "loss=my_parts:Nothing: importing it failed with AttributeError",
    "nowhere:MyLoss": "loss=nowhere:MyLoss: importing it failed with ModuleNotFoundError",
    "my_parts:Odd": "loss=my_parts:Odd: expected fields of types of OmegaConf",
}


@pytest.mark.parametrize("place", REFUSED)
def test_place_without_a_class_of_the_group_is_refused(place, folder):
    with pytest.raises(UserError, match=f"^{REFUSED[place]}"):
        Composer().experiment(["algo=bc", f"+loss@algo.losses.more={place}"])


PENDULUM = ["env=gym", "env.id=Pendulum-v1"]


@pytest.mark.parametrize("more", [[], ["algo.losses.sac.weight=2"]], ids=["plain", "a key of the kind"])
def test_losses_follow_the_actions_of_the_environment(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = Composer().experiment(["algo=cql", *PENDULUM, *more])
    assert (
        list(experiment.stages["learn"].algo.losses) == ["sac", "cql"] and experiment.options["actions"] == "continuous"
    )


def test_actions_other_than_those_of_the_environment_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^actions: expected continuous, as in env.id=Pendulum-v1, got discrete; leave"):
        Composer().experiment(["algo=cql", *PENDULUM, "actions=discrete"])


def test_unknown_key_is_refused_as_of_the_composed_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^algo.losses.saac.weight: algo.losses has no 'saac' yet"):
        Composer().experiment(["algo=cql", *PENDULUM, "algo.losses.saac.weight=2"])


def test_losses_follow_the_actions_of_a_file_without_an_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    starts = np.arange(40) % 10 == 0
    np.savez("moves.npz", obs=rows, actions=np.tanh(rows[:, :2]), rewards=rows[:, 0], episode_starts=starts)
    experiment = Composer().experiment(["algo=cql", "env=none", "dataset.path=moves.npz"])
    assert list(experiment.stages["learn"].algo.losses) == ["sac", "cql"]


def test_losses_follow_the_actions_of_each_job_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    composer = Composer()
    master = composer.master([])
    jobs = [composer.job(master, ["algo=cql", "env=gym", f"env.id={id}"]) for id in ("CartPole-v1", "Pendulum-v1")]
    losses = [list(job.stages["learn"].algo.losses) for job in jobs]
    assert losses == [["dqn", "cql"], ["sac", "cql"]]
    assert jobs[1].line[-1] == "actions=continuous"  # the process of the job composes this line


def test_tuples_and_indices_are_learned_from_and_acted_on(tmp_path, monkeypatch, capsys):
    """Blackjack's observations are a Tuple of Discretes; the policy takes them as the environment returns them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "algo=bc", "env=gym", "env.id=Blackjack-v1", *TINY])
    assert cli.run() == 0, capsys.readouterr().err
    (folder,) = tmp_path.glob("outputs/runs/*")
    assert lfd.load(folder).act((14, 10, 0)) in (0, 1)
    with pytest.raises(UserError, match=r"observation: expected a dict of \['0', '1', '2'\], got \['0', '1'\]"):
        lfd.load(folder).act((14, 10))
