"""Recurrent agents: sources provide sequences, the agent flattens them to rows, and losses need no changes."""

import numpy as np
import pytest
import torch

from lfd.agents.memory import GRUSpec
from lfd.algos.bc import BC
from lfd.algos.ppo import PPO
from lfd.data import Episode
from lfd.envs.env import Gym
from lfd.episodes import agent_policy, play
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner
from lfd.learner.optim import OptimConfig
from lfd.sources.dataset import DatasetSource, Sequences
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from tests.memory import LSTMSpec, remembering

ENV = Gym("Recall-v0")
COLUMNS = frozenset({"obs", "action", "reward", "next_obs", "discount", "terminated", "truncated"})


BOTH = pytest.mark.parametrize("memory", [GRUSpec(16), LSTMSpec(16)], ids=["gru", "lstm"])


def algo(losses, sources=None, memory=None, **settings):
    return Algo(
        remembering(memory), losses, sources or {}, batch_size=64, sequence_length=8, **{"lr": 1e-2, **settings}
    )


def test_ppo_with_a_memory_solves_recall(run_stages):
    ppo = algo(
        {"ppo": PPO("rollout")},
        {"rollout": Rollout(8, 32)},
        gamma=0.9,
        optim={"memory": OptimConfig(max_grad_norm=0.5)},
    )
    stages = {"learn": Fit(ppo, 600, eval=EvalConfig(0)), "score": Evaluate(["learn"], episodes=20)}
    assert run_stages(stages, ENV).product("score")["learn"]["return_mean"] == 1.0


def episodes(count):
    """Episodes of an expert that remembers the sign; its actions before the last step do not show it."""
    for index in range(count):
        sign = index % 2
        seen = np.zeros((5, 2), np.float32)
        seen[0, 0], seen[3, 1] = 2 * sign - 1, 1
        yield Episode(seen, np.array([0, 1, 0, sign]), np.array([0, 0, 0, 1], np.float32), True, False)


@BOTH
def test_bc_on_sequences_solves_recall(write_data, open_source, memory):
    torch.manual_seed(0)
    data = write_data(list(episodes(30)), ENV.spaces())
    bc = algo({"bc": BC("source")}, memory=memory)
    learner = Learner([bc.agent.build(ENV.spaces())], bc, 0, torch.device("cpu"))
    stream = open_source(
        DatasetSource(), learner.agent, products={"source": data}, columns=frozenset({"obs", "action"}), sequence=4
    )
    for _ in range(200):
        learner.step({"source": stream.next()}, ["bc"])
    env = ENV.make(10, training=False)
    played = play(env, lambda: agent_policy(learner.agent, 10, torch.device("cpu")), range(10))
    assert {episode.episode_return for episode in played} == {1.0} and len({episode.length for episode in played}) == 1


def test_sequences_are_consecutive_rows(write_data, open_source):
    agent = remembering().build(ENV.spaces())
    data = write_data(list(episodes(30)), ENV.spaces())
    given = {
        "dataset": open_source(
            DatasetSource(sequences=Sequences.streams), agent, products={"source": data}, sequence=8, columns=COLUMNS
        ),
        "rollout": open_source(Rollout(4, 16), agent, ENV, sequence=8, columns=COLUMNS),
        "replay": open_source(Replay(200, 4, 64), agent, ENV, sequence=8, columns=COLUMNS),
    }
    for name, stream in given.items():
        batch = stream.next()
        assert batch.obs.shape == (8, 8, 2) and batch.first.shape == batch.reward.shape == (8, 8), name
        # Where no episode begins, an observation is the successor of the one before.
        inner = ~batch.first[:, 1:]
        assert torch.equal(batch.obs[:, 1:][inner], batch.next_obs[:, :-1][inner]), name
        assert torch.equal(batch.first[:, 1:], (batch.terminated | batch.truncated)[:, :-1]), name
        for collector in stream.collectors:
            collector.close()


def test_rollout_stores_the_initial_states_of_its_sequences(open_source):
    agent = remembering().build(ENV.spaces())
    columns = COLUMNS | {"log_prob", "value", "advantage", "value_target"}
    stream = open_source(Rollout(4, 30, epochs=1), agent, ENV, sequence=3, columns=columns, batch=120)
    batch = stream.next()
    rows = agent.unroll(agent.preprocess(batch))
    with torch.no_grad():
        assert batch.state.abs().sum() > 0
        torch.testing.assert_close(agent.policy(rows.obs).log_prob(rows.action), rows.log_prob)
        torch.testing.assert_close(agent.value(rows.obs), rows.value)


def test_recurrent_agent_without_sequences_is_refused(check_setup):
    single = Algo(remembering(), {"ppo": PPO("rollout")}, {"rollout": Rollout()})
    with pytest.raises(UserError, match="learn: algo.sequence_length: expected more than 1 for an agent .*, got 1"):
        check_setup(Fit(single, 10), "learn", ENV.spaces(), [])
    uneven = algo({"ppo": PPO("rollout")}, {"rollout": Rollout(num_steps=12)})
    with pytest.raises(UserError, match="rollout.num_steps: expected a multiple of algo.sequence_length=8, got 12"):
        check_setup(Fit(uneven, 10), "learn", ENV.spaces(), [])
