"""Frames of a real game, as sources stack them, against the environment's own stacks."""

import numpy as np
import pytest
import torch

from lfd.agents.actor_critic import Policy, PolicyValue
from lfd.agents.q import QNet
from lfd.data import Dataset
from lfd.envs import Atari
from lfd.episodes import Lane
from lfd.experts import Scripted
from lfd.sources.interactive import Interactive
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages.collect import Collect

PONG = Atari("ALE/Pong-v5", max_frames=200)  # episodes of at most 50 steps


@pytest.fixture(scope="module")
def pong():
    PONG.spaces()
    return PONG


def test_a_replay_gives_back_the_stacks_that_were_seen(pong, open_source):
    torch.manual_seed(0)
    stream = open_source(Replay(200, 2, 2, rate=2.0), QNet().build(pong.spaces()), pong, batch=4)
    seen, step = [], stream._env.step

    def watched(action):
        before = stream._obs
        found = step(action)
        seen.append((before, found.next_obs))
        return found

    stream._env.step = watched
    for _ in range(60):
        stream.next()
    stream.boundary(1)
    for _ in range(5):
        stream.next()
    ring = stream._ring
    ends = 0
    for lane in range(2):
        rows = ring.position(np.full(len(seen), lane), np.arange(len(seen)))
        before, after = (ring.observations(np.full(len(seen), lane), rows + k) for k in (0, 1))
        assert np.array_equal(before, np.stack([obs[lane] for obs, _ in seen]))
        assert np.array_equal(after, np.stack([obs[lane] for _, obs in seen]))
        ends += int((np.diff(rows) > 1).sum())
    assert ends >= 4  # both lanes had an end of an episode and a boundary


def test_data_gives_back_the_stacks_that_were_seen(pong, run_stages, monkeypatch):
    seen, follow = [], Lane.follow

    def watched(self, index, action, step):
        if self.running:
            seen.append((id(self), step.next_obs[index].copy()))
        follow(self, index, action, step)

    monkeypatch.setattr(Lane, "follow", watched)
    data = run_stages({"demos": Collect("random", episodes=2, num_envs=2)}, pong).product("demos")
    lanes = list(dict.fromkeys(lane for lane, _ in seen))
    expected = np.concatenate([[obs for lane, obs in seen if lane == one] for one in lanes])
    assert data.stack == 4 and np.array_equal(data.successors(np.arange(len(data))), expected)
    assert np.array_equal(data.observations(np.arange(1, 20)), expected[:19])


def test_a_rollout_learns_from_the_sign_of_the_reward(pong, open_source, monkeypatch):
    stream = open_source(Rollout(2, 4), PolicyValue().build(pong.spaces()), pong, batch=8)
    step = stream._env.step
    rewards = np.array([3.0, -2.0], np.float32)
    monkeypatch.setattr(stream._env, "step", lambda action: step(action)._replace(reward=rewards))
    batch = stream.next()
    assert sorted(batch.reward.tolist()) == [-1.0] * 4 + [1.0] * 4
    assert sorted(batch.true_reward.tolist()) == [-2.0] * 4 + [3.0] * 4


def test_interactive_rounds_keep_single_frames_and_give_stacks(pong, open_source, tmp_path):
    experts = {"expert": Scripted("tests.experts:ones")}
    columns = frozenset({"obs", "action"})
    source = Interactive(num_envs=2, episodes=1, transitions=1, most=60)
    agent = Policy().build(pong.spaces())
    stream = open_source(source, agent, pong, columns=columns, experts=experts, kept=tmp_path / "demos", batch=8)
    stream.begin_round()
    batch = stream.next()
    assert batch.obs.shape == (8, 4, 84, 84) and batch.obs.dtype == torch.uint8 and (batch.action == 1).all()
    data = Dataset.open(tmp_path / "demos" / "round-000" / "data.hdf5")
    assert data.columns["observations"].shape == (60, 84, 84)
    stacks = torch.from_numpy(data.observations(np.arange(60)))
    assert all((stacks == one).flatten(1).all(1).any() for one in batch.obs)
