"""Negative controls: algorithms must miss their bar if labels or rewards are spoilt."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lfd.algos.bc import BC
from lfd.cli import main as cli
from lfd.data import Dataset, Episode
from lfd.envs import Gym
from lfd.episodes import agent_policy, play
from lfd.learner.learner import Algo, Learner, Phase
from lfd.sources import preference_pairs
from lfd.sources.dataset import DatasetSource
from lfd.sources.interactive import Interactive
from lfd.stages.evaluate import Evaluate
from lfd.stages.experts import Script
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.stage import Fit
from tests import composed

ENV = Gym("CartPole-v1")
BAR = 400.0


def by_rule(obs):
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0).astype(np.int64)


def demonstrations(shuffle: bool, write_data) -> Dataset:
    """A pole held up by a rule: push to where it falls."""
    env = ENV.make(8, training=False)
    played = play(env, lambda: by_rule, list(range(16)), keep=True)
    env.close()
    episodes = [one.episode for one in played]
    if shuffle:
        actions = np.random.default_rng(0).permutation(np.concatenate([episode.actions for episode in episodes]))
        ends = np.cumsum([len(episode) for episode in episodes])[:-1]
        episodes = [
            Episode(e.observations, part, e.rewards, e.terminated, e.truncated)
            for e, part in zip(episodes, np.split(actions, ends), strict=True)
        ]
    return write_data(episodes, ENV.spaces(), name=str(shuffle))


def score(data: Dataset, open_source) -> float:
    torch.manual_seed(0)
    algo = Algo(composed.policy([32]), {"bc": BC("demos")}, lr=1e-2)
    agent = algo.agent.build(ENV.spaces())
    learner = Learner([agent], algo, 0, torch.device("cpu"))
    stream = open_source(DatasetSource(), agent, name="demos", products={"demos": data})
    for _ in range(300):
        learner.step({"demos": stream.next()}, ["bc"])
    env = ENV.make(10, training=False)
    played = play(env, lambda: agent_policy(agent, 10, torch.device("cpu")), list(range(100, 110)))
    env.close()
    return float(np.mean([one.episode_return for one in played]))


@pytest.mark.parametrize("shuffle", [False, True])
def test_bc_reaches_its_bar_unless_labels_are_shuffled(shuffle, write_data, open_source):
    found = score(demonstrations(shuffle, write_data), open_source)
    assert found < 0.5 * BAR if shuffle else found >= BAR


@pytest.mark.parametrize("expert", ["balance", "guess"])
def test_dagger_reaches_its_bar_unless_labels_are_random(expert, run_stages):
    demos = Interactive(beta={"start": 1.0, "end": 0.0, "over": 1}, num_envs=4, transitions=1_000)
    rounds = {"clone": Phase(["bc"], steps=150)}
    algo = Algo(composed.policy([32]), {"bc": BC("demos")}, {"demos": demos}, rounds, lr=1e-2)
    learn = Fit(algo, 1_000, eval=EvalConfig(0), stop=Stop(rounds=3))
    stages = {"expert": Script(f"tests.experts:{expert}"), "learn": learn, "score": Evaluate(["learn"], episodes=10)}
    found = run_stages(stages, ENV).product("score")["learn"]["return_mean"]
    assert found >= BAR if expert == "balance" else found < 0.5 * BAR


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", ["untrained", "shuffled"])
@pytest.mark.parametrize("algo", ["trex", "drex"])
def test_trex_and_drex_miss_their_bar_with_a_spoilt_reward(algo, spoilt, monkeypatch, tmp_path, capsys):
    """The bar is in test_scores.py. Shuffled are the labels of pairs: any order of ten ranks tells something."""
    line = ["run.py", f"algo={algo}", "env=pendulum", "seed=0", "score.episodes=100", f"outputs={tmp_path}"]
    shown, generator = preference_pairs.PreferencePairStream._shown, torch.Generator().manual_seed(0)

    def shuffled(self, pieces):
        batch = shown(self, pieces)
        order = torch.randperm(len(batch.preferred), generator=generator)
        return batch.having(preferred=batch.preferred[order])

    if spoilt == "shuffled":
        monkeypatch.setattr(preference_pairs.PreferencePairStream, "_shown", shuffled)
    else:
        line.append("algo.lr=0")
    monkeypatch.setattr(sys, "argv", line)
    assert cli.run() == 0
    scores = json.loads(Path(capsys.readouterr().out.splitlines()[-1]).read_text())["scores"]
    assert scores["learn"]["return_mean"] < -300
