"""Frames of a real game, as sources stack them, against the environment's own stacks."""

import numpy as np
import pytest
import torch

from lfd.data import Dataset
from lfd.envs import Atari
from lfd.episodes import EpisodeRecorder
from lfd.experts.experts import Scripted
from lfd.sources.interactive import Interactive
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages.collect import Collect
from tests import composed

PONG = Atari("ALE/Pong-v5", max_frames=200)  # episodes of at most 50 steps


@pytest.fixture(scope="module")
def pong():
    PONG.spaces()
    return PONG


def test_replay_returns_the_stacks_of_the_environment(pong, open_source):
    torch.manual_seed(0)
    stream = open_source(
        Replay(200, 2, 2, env_steps_per_update=2.0), composed.q_net().build(pong.spaces()), pong, batch=4
    )
    seen, step = [], stream._env.step

    def watched(action):
        before = stream._obs
        found = step(action)
        seen.append((before, found.next_obs))
        return found

    stream._env.step = watched
    for _ in range(60):
        stream.next()
    stream.reset_envs(1)
    for _ in range(5):
        stream.next()
    ring = stream._buffer._ring
    ends = 0
    for env in range(2):
        rows = ring.position(np.full(len(seen), env), np.arange(len(seen)))
        before, after = (ring.observations(np.full(len(seen), env), rows + k) for k in (0, 1))
        assert np.array_equal(before, np.stack([obs[env] for obs, _ in seen]))
        assert np.array_equal(after, np.stack([obs[env] for _, obs in seen]))
        ends += int((np.diff(rows) > 1).sum())
    assert ends >= 4  # both envs had an end of an episode and a reset


def test_dataset_returns_the_stacks_of_the_environment(pong, run_stages, monkeypatch):
    seen, add_step = [], EpisodeRecorder.add_step

    def watched(self, index, action, step):
        if self.running:
            seen.append((id(self), step.next_obs[index].copy()))
        add_step(self, index, action, step)

    monkeypatch.setattr(EpisodeRecorder, "add_step", watched)
    data = run_stages({"demos": Collect("random", episodes=2, num_envs=2)}, pong).product("demos")
    recorders = list(dict.fromkeys(recorder for recorder, _ in seen))
    expected = np.concatenate([[obs for recorder, obs in seen if recorder == one] for one in recorders])
    assert data.stack == 4 and np.array_equal(data.next_observations(np.arange(len(data))), expected)
    assert np.array_equal(data.observations(np.arange(1, 20)), expected[:19])


def test_rollout_in_atari_has_the_sign_of_the_reward(pong, open_source, monkeypatch):
    stream = open_source(Rollout(2, 4), composed.policy_value().build(pong.spaces()), pong, batch=8)
    step = stream._env.step
    rewards = np.array([3.0, -2.0], np.float32)
    monkeypatch.setattr(stream._env, "step", lambda action: step(action)._replace(reward=rewards))
    batch = stream.next()
    assert sorted(batch.reward.tolist()) == [-1.0] * 4 + [1.0] * 4
    assert sorted(batch.true_reward.tolist()) == [-2.0] * 4 + [3.0] * 4


def test_interactive_rounds_store_single_frames_and_return_stacks(pong, open_source, tmp_path):
    experts = {"expert": Scripted("tests.experts:ones")}
    columns = frozenset({"obs", "action"})
    source = Interactive(num_envs=2, episodes=1, transitions=1, max_transitions=60)
    agent = composed.policy().build(pong.spaces())
    stream = open_source(
        source, agent, pong, columns=columns, products=experts, product_folder=tmp_path / "demos", batch=8
    )
    stream.begin_round()
    batch = stream.next()
    assert batch.obs.shape == (8, 4, 84, 84) and batch.obs.dtype == torch.uint8 and (batch.action == 1).all()
    data = Dataset.open(tmp_path / "demos" / "round-000" / "data.hdf5")
    assert data.columns["observations"].shape == (60, 84, 84)
    stacks = torch.from_numpy(data.observations(np.arange(60)))
    assert all((stacks == one).flatten(1).all(1).any() for one in batch.obs)
