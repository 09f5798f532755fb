"""An agent with memory needs nothing of the losses: sources give sequences, it makes rows of them."""

import numpy as np
import pytest
import torch

from lfd.algos.bc import Cloning
from lfd.algos.ppo import PPO
from lfd.data import Episode
from lfd.envs.env import Gym
from lfd.episodes import greedy, play
from lfd.errors import Refused
from lfd.learner import Algo, Learner
from lfd.optim import Optim
from lfd.registry import parts
from lfd.sources.dataset import Demonstrations
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit import Fit
from lfd.stages.recipe import Checks
from tests.memory import Memory

ENV = Gym("Recall-v0")
COLUMNS = frozenset({"obs", "action", "reward", "next_obs", "discount", "terminated", "truncated"})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(parts("agent"), "memory", Memory)


def algo(losses, sources=None, **settings):
    return Algo(Memory(), losses, sources or {}, batch=64, sequence=8, **{"lr": 1e-2, **settings})


def test_ppo_learns_what_only_a_memory_can(run_stages):
    ppo = algo({"ppo": PPO("rollout")}, {"rollout": Rollout(8, 32)}, gamma=0.9, optim={"memory": Optim(clip=0.5)})
    stages = {"learn": Fit(ppo, 600, check=Checks(0)), "score": Evaluate(["learn"], episodes=20)}
    assert run_stages(stages, ENV).product("score")["learn"]["return_mean"] == 1.0


def episodes(count):
    """Of somebody who remembers; the actions before the last step show nothing of the sign."""
    for index in range(count):
        sign = index % 2
        seen = np.zeros((5, 2), np.float32)
        seen[0, 0], seen[3, 1] = 2 * sign - 1, 1
        yield Episode(seen, np.array([0, 1, 0, sign]), np.array([0, 0, 0, 1], np.float32), True, False)


def test_cloning_learns_it_from_sequences_of_a_dataset(write_data, open_source):
    torch.manual_seed(0)
    data = write_data(list(episodes(30)), ENV.spaces())
    bc = algo({"bc": Cloning("source")})
    learner = Learner([Memory().build(ENV.spaces())], bc, 0, torch.device("cpu"))
    stream = open_source(
        Demonstrations(), learner.agent, datasets={"source": data}, columns=frozenset({"obs", "action"}), sequence=8
    )
    for _ in range(200):
        learner.step({"source": stream.next()}, ["bc"])
    env = ENV.make(10, training=False)
    played = play(env, lambda: greedy(learner.agent, 10, torch.device("cpu")), range(10))
    assert {episode.value for episode in played} == {1.0} and len({episode.length for episode in played}) == 1


def test_sequences_are_rows_that_follow_each_other(write_data, open_source):
    agent = Memory().build(ENV.spaces())
    data = write_data(list(episodes(30)), ENV.spaces())
    given = {
        "dataset": open_source(Demonstrations(), agent, datasets={"source": data}, sequence=8, columns=COLUMNS),
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
        stream.close()


def test_a_rollout_remembers_in_what_state_its_sequences_begin(open_source):
    agent = Memory().build(ENV.spaces())
    columns = COLUMNS | {"log_prob", "value", "advantage", "value_target"}
    stream = open_source(Rollout(4, 30, epochs=1), agent, ENV, sequence=3, columns=columns, batch=120)
    batch = stream.next()
    rows = agent.unroll(agent.prepare(batch))
    with torch.no_grad():
        assert batch.state.abs().sum() > 0
        torch.testing.assert_close(agent.distribution(rows.obs).log_prob(rows.action), rows.log_prob)
        torch.testing.assert_close(agent.value(rows.obs), rows.value)


def test_a_memory_without_sequences_is_refused():
    single = Algo(Memory(), {"ppo": PPO("rollout")}, {"rollout": Rollout()})
    with pytest.raises(Refused, match="Remembering has a memory and learns from sequences; set algo.sequence"):
        Fit(single, 10).check_wiring("learn", ENV.spaces(), [])
    uneven = algo({"ppo": PPO("rollout")}, {"rollout": Rollout(steps=12)})
    with pytest.raises(Refused, match="steps=12 of rollout is not a multiple of algo.sequence=8"):
        Fit(uneven, 10).check_wiring("learn", ENV.spaces(), [])
