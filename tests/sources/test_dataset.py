"""Batches of a dataset: every column against its episodes, held-out rows, scaled rewards, and exact resumption."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.data import Episode
from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.sources import columns as module
from lfd.sources.dataset import DatasetSource, statistics
from lfd.sources.dataset_streams import split
from tests import composed

VECTOR = Spaces(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Discrete(100))
FRAMES = Spaces(gym.spaces.Box(0, 255, (4, 3, 3), np.uint8), gym.spaces.Discrete(100))
ALL = frozenset({
    "obs", "action", "reward", "true_reward", "next_obs", "discount", "terminated", "truncated",
    "next_action", "return_to_go",
})  # fmt: skip


def episode(name: int, length: int, end: str) -> Episode:
    """Observations (name, t), action t, reward t + 1."""
    observations = np.stack([np.full(length + 1, name), np.arange(length + 1)], 1).astype(np.float32)
    rewards = np.arange(1, length + 1, dtype=np.float32)
    return Episode(observations, np.arange(length), rewards, end == "terminated", end == "truncated")


EPISODES = [episode(1, 5, "terminated"), episode(2, 1, "truncated"), episode(3, 4, "truncated"), episode(4, 3, "cut")]


@pytest.fixture
def data(write_data):
    return write_data(EPISODES, VECTOR)


@pytest.fixture
def stream_of(open_source, data):
    agent = composed.q_net([8]).build(VECTOR)
    return lambda source=None, **context: open_source(
        source or DatasetSource(), agent, **{"name": "demos", "products": {"demos": data}, "columns": ALL, **context}
    )


def gather(stream, rows):
    return stream._columns.gather(torch.as_tensor(rows))


@pytest.mark.parametrize("steps", [1, 3])
def test_columns_equal_those_computed_by_hand(stream_of, steps):
    batch = gather(stream_of(DatasetSource(n_step=steps)), np.arange(13))
    row = 0
    for one in EPISODES:
        length, name = len(one), one.observations[0, 0]
        for t in range(length):
            taken = min(steps, length - t)
            ends = t + taken == length
            assert batch.obs[row].tolist() == [name, t] and batch.next_obs[row].tolist() == [name, t + taken]
            assert batch.action[row] == t and batch.next_action[row] == min(t + taken, length - 1)
            assert batch.true_reward[row] == t + 1
            summed = sum(0.9**k * (t + 1 + k) for k in range(taken))
            assert float(batch.reward[row]) == pytest.approx(summed, rel=1e-6)
            assert float(batch.discount[row]) == pytest.approx(0.0 if ends and one.terminated else 0.9**taken, rel=1e-6)
            assert bool(batch.terminated[row]) == (ends and one.terminated)
            assert bool(batch.truncated[row]) == (ends and one.truncated)
            togo = sum(0.9**k * (t + 1 + k) for k in range(length - t))
            assert float(batch.return_to_go[row]) == pytest.approx(togo, rel=1e-6)
            row += 1


@pytest.mark.parametrize("members", [1, 3])
def test_resident_and_mapped_data_give_equal_batches(stream_of, monkeypatch, members):
    resident = stream_of(DatasetSource(n_step=2), members=members)
    monkeypatch.setattr(module, "MAX_DEVICE_BYTES", 0)
    mapped = stream_of(DatasetSource(n_step=2), members=members)
    assert resident._columns._resident is not None and mapped._columns._resident is None
    for _ in range(3):
        one, other = resident.next(), mapped.next()
        assert one.action.shape == ((64,) if members == 1 else (3, 64))
        for name in ALL:
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_members_draw_different_rows(stream_of):
    obs = stream_of(members=2).next().obs
    assert not torch.equal(obs[0], obs[1])


def test_batch_has_only_the_columns_that_are_read(stream_of):
    assert set(stream_of(columns=frozenset({"obs", "action"})).next().__dict__) == {"obs", "action"}


@pytest.mark.parametrize("used", [0, 1, 255, 256, 257, 300])
def test_restore_within_a_prefetched_block_gives_the_same_bits(stream_of, used):
    first, second = stream_of(batch=4), stream_of(batch=4)
    for _ in range(used):
        first.next()
    tensors, state = first.save()
    second.restore(tensors, state)
    tensors, state = second.save()
    second.restore(tensors, state)
    for _ in range(300):
        assert torch.equal(first.next().obs, second.next().obs)


def test_stacks_at_the_start_and_end_of_episodes_are_right(write_data, open_source):
    frames = [np.arange(10 * k, 10 * k + 4, dtype=np.uint8)[:, None, None] * np.ones((3, 3), np.uint8) for k in (1, 2)]
    rewards = np.ones(3, np.float32)
    data = write_data([Episode(f, np.arange(3), rewards, False, True) for f in frames], FRAMES, stack=4)
    agent = composed.q_net([8]).build(FRAMES)
    stream = open_source(DatasetSource(), agent, name="demos", products={"demos": data}, columns=ALL)
    batch = gather(stream, np.arange(6))
    stacks, after = batch.obs[:, :, 0, 0].tolist(), batch.next_obs[:, :, 0, 0].tolist()
    assert stacks[:3] == [[10, 10, 10, 10], [10, 10, 10, 11], [10, 10, 11, 12]]
    assert stacks[3] == [20, 20, 20, 20]
    assert after[:3] == [[10, 10, 10, 11], [10, 10, 11, 12], [10, 11, 12, 13]]


@pytest.mark.parametrize(
    ("episodes", "share", "count"), [(10, 0.1, 1), (10, 0.9, 9), (3, 0.67, 2), (20, 0.01, 1), (5, 0.0, 0), (1, 0.1, 0)]
)
def test_validation_holds_out_whole_episodes(write_data, episodes, share, count):
    data = write_data([episode(k, 3, "terminated") for k in range(episodes)], VECTOR)
    learn, held = split(data, share)
    assert not set(data.episode_of(learn)) & set(data.episode_of(held))
    assert len(set(data.episode_of(held))) == count and len(learn) + len(held) == len(data)


def test_held_out_rows_are_never_drawn_and_are_the_validation_batches(stream_of):
    stream = stream_of(DatasetSource(validation=0.25))
    drawn = set(torch.cat([stream.next().obs[:, 0] for _ in range(20)]).tolist())
    held = set(torch.cat([batch.obs[:, 0] for batch in stream.held_out()]).tolist())
    assert len(held) == 1 and drawn == {1.0, 2.0, 3.0, 4.0} - held


def test_dataset_source_without_rows_beside_the_held_out_is_refused(write_data, open_source):
    data = write_data([episode(k, 3, "terminated") for k in range(2)], VECTOR)
    with pytest.raises(UserError, match="expected 1 or more transitions beside the 90% held out .*, got 0"):
        open_source(
            DatasetSource(validation=0.9), composed.q_net([8]).build(VECTOR), name="demos", products={"demos": data}
        )


def test_statistics_yield_all_rows_in_parts(data, monkeypatch):
    seen = np.concatenate(list(statistics(data)))
    assert len(seen) == len(data) and np.array_equal(seen, data.observations(np.arange(len(data))))
    assert len(np.concatenate(list(statistics(data, limit=5)))) == 5


def test_batch_larger_than_the_dataset_is_drawn(write_data, open_source):
    data = write_data([episode(1, 2, "terminated")], VECTOR, name="tiny")
    stream = open_source(
        DatasetSource(), composed.q_net([8]).build(VECTOR), name="demos", products={"demos": data}, batch=500
    )
    assert len(stream.next().action) == 500 and stream.epoch_steps() == 1


def test_constant_reward_replaces_that_of_the_data(stream_of):
    batch = gather(stream_of(DatasetSource(n_step=2, constant_reward=3.0)), np.arange(5))
    assert batch.reward.tolist() == pytest.approx([3 + 0.9 * 3] * 4 + [3])
    assert batch.true_reward.tolist() == [1, 2, 3, 4, 5]
    assert batch.return_to_go[-2:].tolist() == pytest.approx([3 + 0.9 * 3, 3])


def test_return_range_scales_the_returns_of_complete_episodes(stream_of):
    """Those return 15, 1 and 10; the one that was cut, 6, is scaled with them."""
    batch = gather(stream_of(DatasetSource(return_range=28.0)), np.arange(13))
    assert batch.reward.tolist() == pytest.approx([2.0 * reward for reward in (1, 2, 3, 4, 5, 1, 1, 2, 3, 4, 1, 2, 3)])
    assert batch.true_reward[:5].tolist() == [1, 2, 3, 4, 5]
    assert batch.return_to_go[4].item() == pytest.approx(10.0)


def test_return_range_ignores_incomplete_episodes(write_data, stream_of):
    data = write_data([*EPISODES, episode(5, 9, "cut")], VECTOR, name="cut")
    batch = gather(stream_of(DatasetSource(return_range=28.0), products={"demos": data}), np.arange(5))
    assert batch.reward.tolist() == pytest.approx([2, 4, 6, 8, 10])


def test_return_range_that_does_not_fit_is_refused(write_data, stream_of):
    with pytest.raises(UserError, match="^return_range: expected a number above 0, got 0$"):
        DatasetSource(return_range=0.0)
    with pytest.raises(UserError, match="^return_range: expected null beside constant_reward=1, got 1; leave one"):
        DatasetSource(return_range=1.0, constant_reward=1.0)
    data = write_data([EPISODES[1], EPISODES[1]], VECTOR, name="same")
    with pytest.raises(
        UserError, match="sources.demos.return_range: expected episodes of different returns, .*; leave it out"
    ):
        stream_of(DatasetSource(return_range=1.0), products={"demos": data})


@pytest.mark.parametrize("form", ["vector", "dict"])
def test_statistics_clip_an_outlier_and_leave_other_values(write_data, form):
    seen = np.random.default_rng(0).normal(size=(1001, 3)).astype(np.float32)
    box = gym.spaces.Box(-np.inf, np.inf, (3,))
    spaces = Spaces(gym.spaces.Dict({"pose": box}) if form == "dict" else box, gym.spaces.Discrete(2))

    def statistic(column, name):
        observations = {"pose": column} if form == "dict" else column
        episode = Episode(observations, np.zeros(1000, int), np.ones(1000, np.float32), True, False)
        parts = list(statistics(write_data([episode], spaces, name=name)))
        return np.concatenate([part["pose"] if form == "dict" else part for part in parts])

    np.testing.assert_array_equal(statistic(seen, "clean"), seen[:-1])
    wild = seen.copy()
    wild[500, 1] = 1e5
    found = statistic(wild, "wild")
    np.testing.assert_array_equal(np.delete(found, 500, 0), np.delete(seen[:-1], 500, 0))
    # Ten widths beyond what all but four rows at either end cover.
    ordered = np.sort(wild[:-1, 1])
    low, high = float(ordered[4]), float(ordered[-5])
    assert found[500, 1] == pytest.approx(high + 10 * (high - low), rel=1e-6) and found.std(0)[1] < 4
