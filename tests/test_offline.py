"""Experiments without a simulator: data from a file, the score from FQE."""

import json
import sys
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest

import lfd
from lfd.cli import main as cli
from lfd.data import Episode, Writer
from lfd.envs import Spaces
from lfd.errors import UserError

SHORT = ["algo=bc", "env=none", "learn.steps=40", "learn.eval.every=20", "fqe.steps=20", "fqe.members=2"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """A command line in an empty folder, in an interpreter that cannot make any environment."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)

    def make(*args, **kwargs):
        raise AssertionError("an environment was made")

    monkeypatch.setattr(gym, "make", make)

    def called(*arguments):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        code = cli.run()
        told = capsys.readouterr()
        return code, told.out, told.err

    return called


def baselines(path: Path) -> list[str]:
    path = path.with_suffix(".npz")
    starts = np.zeros(300, bool)
    starts[::30] = True
    generator = np.random.default_rng(0)
    np.savez(
        path, obs=generator.normal(size=(300, 4)), actions=generator.integers(0, 2, (300, 1)), rewards=np.ones(300),
        episode_starts=starts, episode_returns=np.full(10, 30.0),
    )  # fmt: skip
    return [f"dataset.path={path}", "dataset.max_episode_steps=50"]


def d4rl(path: Path) -> list[str]:
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"] = generator.normal(size=(300, 5)).astype(np.float32)
        file["actions"] = generator.uniform(-1, 1, (300, 2)).astype(np.float32)
        file["rewards"] = generator.normal(size=300)
        file["terminals"] = np.arange(300) % 100 == 99
        file["timeouts"] = np.arange(300) % 100 == 49
    return [f"dataset.path={path}"]


@pytest.mark.parametrize("form", [baselines, d4rl])
def test_offline_run_trains_and_scores(form, call, tmp_path):
    code, out, err = call(*SHORT, *form(tmp_path / "data"))
    assert code == 0, err
    *table, last = out.splitlines()
    result = json.loads(Path(last).read_text())
    assert list(result["stages"]) == ["demos", "learn", "fqe"] and list(result["scores"]) == ["learn", "demos"]
    assert table[0].split("  ")[0] == "policy" and "FQE value" in table[0] and "discounted return" in table[0]
    learnt = result["scores"]["learn"]
    assert learnt["fqe_low"] <= learnt["fqe_mean"] <= learnt["fqe_high"] and "return_mean" not in learnt
    page = (Path(last).parent / "report.html").read_text()
    assert "without an environment" in page and "FQE value" in page
    records = [json.loads(line) for line in (Path(last).parent / "metrics.jsonl").read_text().splitlines()]
    assert any("learn/validation/bc/bc_loss" in record for record in records)
    policy = lfd.load(Path(last).parent)
    assert np.shape(policy.act(np.zeros(policy.agent.spaces.observation.shape, np.float32))) in ((), (2,))
    with pytest.raises(UserError, match="film: expected a policy with an environment, got one that"):
        policy.film(tmp_path / "film.gif")


def test_offline_run_relabels_ranked_data_and_trains_on_it(call, tmp_path):
    line = ["algo=trex", "env=none", "rl_algo=iql", *baselines(tmp_path / "data"), "targets=[fqe,reward_eval]"]
    line += ["+stage@relabelled=relabel", "relabelled.data=demos", "relabelled.reward=reward"]
    line += ["rl_algo.losses.iql.reads=relabelled", "~learn.frozen.reward", "reward_eval.data=[demos]"]
    line += ["reward.steps=5", "learn.steps=5", "fqe.steps=5", "fqe.members=2"]
    code, _, err = call(*line)
    assert code == 2 and "dataset 'demos': expected episodes of different rank, got 10 of return 30" in err
    content = dict(np.load(tmp_path / "data.npz"))
    content["rewards"] = np.repeat(np.arange(10.0), 30)
    np.savez(tmp_path / "data.npz", **content)
    code, out, err = call(*line)
    assert code == 0, err
    result = json.loads(Path(out.splitlines()[-1]).read_text())
    assert list(result["stages"]) == ["demos", "reward", "relabelled", "learn", "fqe", "reward_eval"]
    assert result["rewards"]["reward"]["demos"]["pairs"] == 45
    returns = [result["stages"][name]["metadata"]["returns"] for name in ("demos", "relabelled")]
    assert returns[0] == returns[1]
    assert "Learned rewards" in (Path(out.splitlines()[-1]).parent / "report.html").read_text()


def test_offline_run_on_collected_data_needs_no_simulator(call, tmp_path):
    spaces = Spaces(gym.spaces.Box(0, 255, (4, 40, 40), np.uint8), gym.spaces.Discrete(3))
    writer = Writer(tmp_path / "log", spaces, stack=4)
    generator = np.random.default_rng(0)
    for _ in range(4):
        frames, actions = generator.integers(0, 256, (11, 40, 40), np.uint8), generator.integers(0, 3, 10)
        writer.add(Episode(frames, actions, np.ones(10, np.float32), True, False))
    writer.finalize(tmp_path / "data.hdf5", {})
    small = ["learn.steps=2", "fqe.steps=2", "fqe.members=2", "algo.batch_size=4", "fqe.algo.batch_size=4"]
    code, out, err = call("algo=bc", "env=none", *small, f"dataset.path={tmp_path / 'data.hdf5'}")
    assert code == 0, err
    assert json.loads(Path(out.splitlines()[-1]).read_text())["stages"]["demos"]["metadata"]["stack"] == 4


def test_offline_sweep_compares_fqe_scores(call, tmp_path):
    short = [one for one in SHORT if not one.startswith("learn.steps")]
    code, out, err = call("-m", *short, *baselines(tmp_path / "data"), "seed=0,1", "learn.steps=10,20")
    assert code == 0, err
    assert "FQE value" in out.splitlines()[0] and "return" not in out.splitlines()[0]
    groups = json.loads(Path(out.splitlines()[-1]).read_text())["groups"]
    assert [group["measure"] for group in groups] == ["fqe_mean"] * 2 and len(groups[0]["returns"]) == 2


def test_offline_dry_run_estimates_costs(call, tmp_path, monkeypatch):
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.01)
    code, out, _ = call(*SHORT, *baselines(tmp_path / "data"), "dry_run=true")
    assert code == 0 and not list(Path.cwd().glob("outputs/*/[!.]*"))
    assert [line.split()[:2] for line in out.splitlines()[2:5]] == [
        ["demos", "load"], ["learn", "fit"], ["fqe", "ope"],
    ]  # fmt: skip
    assert "20 gradient steps × 2 members" in out


REFUSED = {
    "dataset=expert": "expert: needs an environment, got env=none; choose an env",
    "dataset=mixture": "expert: needs an environment, got env=none; choose an env",
    "algo=dqn": "learn: needs an environment, got env=none; choose an env",
    "targets=[score]": "score: needs an environment, got env=none; choose an env",
    "film=true": "film=true: expected an environment, got env=none; leave it out",
    "learn.stop.score=5": "learn: stop rules on scores and snapshots need episodes; choose an env",
    "learn.snapshots=2": "learn: stop rules on scores and snapshots need episodes; choose an env",
    "actions=continuous": "actions: expected discrete, as in the file of demos, got continuous; leave it out",
    "dataset.max_episode_steps=null": "does not tell how its episodes ended, and env=none has no time limit",
    "fqe.frozen.policy=lern": "fqe: no stage is called 'lern'; did you mean 'learn'?",
    "~fqe.frozen.policy": "fqe.frozen.policy: expected a value, got none; set a policy, as in +fqe.frozen.policy=learn",
}


@pytest.mark.parametrize("line", REFUSED)
def test_offline_run_with_bad_input_makes_nothing(line, call, tmp_path):
    given = dict(one.split("=", 1) for one in [*baselines(tmp_path / "data"), "algo=bc", "env=none"])
    key, _, value = line.partition("=")
    if key == "dataset":
        given = {name: value for name, value in given.items() if not name.startswith("dataset.")}
    arguments = [f"{name}={value}" for name, value in (given | ({key: value} if value else {})).items()]
    code, out, err = call(*arguments, *([] if value else [line]))
    assert (code, out) == (2, "")
    assert err.startswith("lfd: ") and err.count("\n") == 1
    assert REFUSED[line] in err
    assert list(Path.cwd().iterdir()) == []


def test_offline_run_without_a_file_is_refused(call):
    assert "dataset.path: expected a value, got none; add dataset.path=..." in call("env=none")[2]
