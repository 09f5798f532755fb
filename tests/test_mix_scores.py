"""The published scores of mixes and pipelines, over seeds 0, 1 and 2: `pytest -m slow`."""

import json
from functools import partial

import numpy as np
import pytest
import torch

import lfd
from lfd.batch import Batch
from lfd.episodes import agent_policy, play
from lfd.rng import GeneratorRng
from lfd.stages.trained import read_trained, trained_folder
from tests.test_scores import finished, run, scores, spearman

SEEDS = (0, 1, 2)
# Environment, options, the least median return over seeds.
BARS = [
    ("cartpole", "ppo_bc_td", 475),
    ("pendulum", "ppo_bc_td", -250),
    ("cartpole", "gail_bc", 475),
    ("cartpole", "ppo pipeline=iql_then_ppo", 475),
    ("cartpole", "ppo pipeline=bc_then_ppo", 475),
    ("cartpole", "ppo pipeline=dagger_then_ppo", 475),
    ("pendulum", "td3_demos", -250),
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One store for all, so that each expert is trained once."""
    return tmp_path_factory.mktemp("scores")


@pytest.mark.slow
@pytest.mark.parametrize(("env", "algo", "bar"), BARS)
def test_median_score_of_a_mix_reaches_the_bar(outputs, env, algo, bar):
    assert np.median(scores(outputs, env, algo)["returns"]) >= bar


@pytest.mark.slow
def test_ppo_with_small_steps_keeps_what_iql_learned(outputs):
    """The lowest evaluation of `learn`, normalized by random and expert, for the median of the seeds."""
    kept = []
    for seed in SEEDS:
        line = ["algo=ppo", "pipeline=iql_then_ppo", "env=cartpole", "algo.lr=1e-4", f"seed={seed}"]
        result = finished(*line, "score.episodes=100", f"outputs={outputs}")
        returns = {name: row["return_mean"] for name, row in json.loads(result.read_text())["scores"].items()}
        history = read_trained(trained_folder(result.parent, "learn"), result.parent).history
        reach = returns["expert"] - returns["random"]
        lowest = (min(record["score"] for record in history) - returns["random"]) / reach
        kept.append(lowest / ((returns["offline"] - returns["random"]) / reach))
    assert np.median(kept) >= 0.9


@pytest.mark.slow
def test_dqfd_reaches_the_bar_in_half_of_the_environment_steps_of_dqn(outputs):
    until = ["learn.stop.score=475", "learn.eval.every=250", "score.episodes=20"]
    steps = {
        algo: np.median([env_steps(outputs, f"algo={algo}", f"seed={seed}", *until) for seed in SEEDS])
        for algo in ("dqn", "dqfd pipeline=dqfd")
    }
    assert steps["dqfd pipeline=dqfd"] <= steps["dqn"] / 2


def env_steps(outputs, algo, *line):
    """Transitions that `learn` took from CartPole until its stop rule on scores ended it."""
    learn = run(*algo.split(), "env=cartpole", *line, f"outputs={outputs}")["stages"]["learn"]
    assert learn["stopped_by"] == "score"
    return learn["env_steps"]


@pytest.mark.slow
@pytest.mark.parametrize(("env", "gamma", "settings"), [
    ("cartpole", 0.98, ["learn.steps=1_000", "learn.eval.every=50"]), ("pendulum", 0.9, []),
])  # fmt: skip
def test_critic_of_ppo_bc_td_ranks_returns(outputs, env, gamma, settings):
    """Mean values of visited states and actions against mean discounted returns to go, over eight snapshots."""
    line = ["algo=ppo_bc_td", f"env={env}", *settings, "learn.snapshots=8", "score.episodes=20", f"outputs={outputs}"]
    folder = finished(*line).parent
    trained = read_trained(trained_folder(folder, "learn"), folder)
    environments = lfd.load(folder).env.make(10, training=False)
    values, returns = [], []
    for snapshot in range(len(trained.snapshots)):
        agent = trained.agents(snapshot)[0]
        policy = partial(agent_policy, agent, 10, torch.device("cpu"), GeneratorRng(0))
        episodes = [played.episode for played in play(environments, policy, list(range(10)), keep=True)]
        batches = [
            Batch(obs=torch.from_numpy(episode.observations[: len(episode)]), action=torch.from_numpy(episode.actions))
            for episode in episodes
        ]
        rows = [agent.preprocess(batch) for batch in batches]
        values.append(np.mean([agent.q(row.obs, row.action).mean().item() for row in rows]))
        returns.append(np.mean([discounted(episode.rewards, gamma).mean() for episode in episodes]))
    environments.close()
    assert spearman(returns, values) >= 0.8


def discounted(rewards, gamma):
    """Returns to go [T] of rewards [T]."""
    returns = np.zeros(len(rewards))
    for t in reversed(range(len(rewards))):
        returns[t] = rewards[t] + gamma * (returns[t + 1] if t + 1 < len(rewards) else 0)
    return returns


@pytest.mark.slow
def test_only_an_agent_with_a_memory_learns_to_recall(outputs):
    """The last of four steps asks for a sign shown at the first: without memory half of the answers are right."""
    line = ["env=gym", "env.id=tests.memory:Recall-v0", "learn.steps=3_000", "score.episodes=100", f"outputs={outputs}"]
    returns = {
        algo: [run(f"algo={algo}", *line, f"seed={seed}")["scores"]["learn"]["return_mean"] for seed in SEEDS]
        for algo in ("ppo_gru", "ppo")
    }
    assert min(returns["ppo_gru"]) >= 0.95 and max(returns["ppo"]) <= 0.65
