"""Preference pairs: which episodes are paired, where segments lie, what is held out, and exact resumption."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.data import Episode
from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.sources import columns as module
from lfd.sources.preference_pairs import PreferencePairs, Rank, held_out_episodes
from tests import composed

VECTOR = Spaces(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Discrete(100))
COLUMNS = frozenset({"obs", "action", "next_obs", "discount", "terminated", "preferred", "valid"})
# By name, in the order of collection: length and return. Two are equal, and the longest is not the best.
EPISODES = {1: (30, 5.0), 2: (12, 9.0), 3: (50, 1.0), 4: (20, 5.0), 5: (41, 7.0), 6: (4, 8.0)}


def episode(name: int, length: int, value: float, noise: float | None = None) -> Episode:
    """Observations (name, t); all of its return comes with its last reward, and it terminates."""
    observations = np.stack([np.full(length + 1, name), np.arange(length + 1)], 1).astype(np.float32)
    rewards = np.zeros(length, np.float32)
    rewards[-1] = value
    infos = {} if noise is None else {"noise": np.full(length, noise, np.float32)}
    return Episode(observations, np.arange(length), rewards, True, False, infos)


@pytest.fixture
def data(write_data):
    return write_data([episode(name, *given) for name, given in EPISODES.items()], VECTOR)


@pytest.fixture
def stream_of(open_source, data):
    agent = composed.reward_model().build(VECTOR)

    def open_it(data=data, members=1, columns=COLUMNS, sequence=1, **settings):
        source = PreferencePairs(**{"validation": 0.0, "min_length": 5, "max_length": 10, **settings})
        given = {"name": "demos", "products": {"demos": data}, "columns": columns, "batch": 16, "sequence": sequence}
        return open_source(source, agent, members=members, **given)

    return open_it


def drawn(stream, steps=200):
    """All pairs of so many batches, one after the other: rows [N, 2, L] by column."""
    batches = [stream.next() for _ in range(steps)]
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in COLUMNS}


def better_first(rows):
    """Names, first and last time shown and count of both pieces, the better one first, [N, 2]."""
    at = torch.arange(len(rows["preferred"]))
    order = torch.stack([rows["preferred"], 1 - rows["preferred"]], 1)
    obs, valid = rows["obs"][at[:, None], order], rows["valid"][at[:, None], order]
    count = valid.sum(-1)
    last = obs[..., 1].gather(-1, (count - 1).unsqueeze(-1)).squeeze(-1)
    return obs[..., 0, 0].long(), obs[..., 0, 1].long(), last.long(), count


def test_segments_are_of_two_episodes_of_different_rank(stream_of):
    names, first, last, count = better_first(drawn(stream_of()))
    value = {name: given[1] for name, given in EPISODES.items()}
    pairs = set(map(tuple, names.tolist()))
    assert pairs == {(a, b) for a in value for b in value if value[a] > value[b]}
    # The better piece never starts earlier, both are as long, and end within their episodes.
    assert (first[:, 0] >= first[:, 1]).all() and (first[:, 0] > first[:, 1]).any()
    assert torch.equal(count[:, 0], count[:, 1])
    lengths = torch.tensor([0, *(given[0] for given in EPISODES.values())])
    assert (last < lengths[names]).all() and (last - first == 2 * (count - 1)).all()
    # Every second of 5 to 10 rows; of 4 where one episode has no more.
    assert set(count[(names == 6).any(1)].flatten().tolist()) == {2}
    assert set(count[(names != 6).all(1)].flatten().tolist()) == {3, 4, 5}


def test_pairs_and_positions_are_drawn_uniformly(stream_of):
    rows = drawn(stream_of(), 500)
    names, *_ = better_first(rows)
    _, counts = np.unique(names.numpy(), axis=0, return_counts=True)
    assert len(counts) == 14 and counts == pytest.approx(8000 / 14, rel=0.2)
    assert rows["preferred"].double().mean() == pytest.approx(0.5, abs=0.03)


def test_rows_of_a_segment_are_transitions_of_its_episode(stream_of):
    rows = drawn(stream_of(), 20)
    valid = rows["valid"]
    assert rows["obs"].shape == (320, 2, 5, 2) and rows["action"].shape == (320, 2, 5)
    assert torch.equal(rows["action"], rows["obs"][..., 1].long())
    assert torch.equal(rows["next_obs"][..., 1], rows["obs"][..., 1] + 1)
    lengths = torch.tensor([0, *(given[0] for given in EPISODES.values())])
    ends = rows["obs"][..., 1] + 1 == lengths[rows["obs"][..., 0].long()]
    assert torch.equal(rows["terminated"], ends) and torch.equal(rows["discount"] == 0, ends)
    assert valid[..., 0].all() and (valid[..., 1:] <= valid[..., :-1]).all()


def test_full_trajectories_of_a_pair_have_one_stride(stream_of):
    rows = drawn(stream_of(full_trajectory_prob=1.0))
    names, first, last, count = better_first(rows)
    lengths = torch.tensor([0, *(given[0] for given in EPISODES.values())])[names]
    assert rows["obs"].shape[2] == 17
    stride = ((last - first) // (count - 1).clamp_min(1)).amax(1)
    assert set(stride.tolist()) == {3, 4, 5, 6}
    assert set(first[lengths > 6].tolist()) == set(range(6)) and (first[names == 6] <= 3).all()
    assert torch.equal(count, -(-(lengths - first) // stride.unsqueeze(-1)))


def test_full_trajectory_prob_is_the_fraction_of_full_trajectories(stream_of):
    *_, count = better_first(
        drawn(stream_of(full_trajectory_prob=0.25, min_length=4, max_length=4, frame_stride=1), 500)
    )
    assert (count == 4).all(1).double().mean() == pytest.approx(0.75, abs=0.05)


def test_preferences_ignore_the_order_of_collection(stream_of, write_data):
    """Detects pairs that are labeled by the order of training, where the later episode may be worse."""
    worse_later = write_data([episode(1, 20, 3.0), episode(2, 20, 2.0), episode(3, 20, 1.0)], VECTOR, name="falling")
    names, *_ = better_first(drawn(stream_of(worse_later), 20))
    assert (names[:, 0] < names[:, 1]).all()


def test_rank_by_noise_prefers_lower_levels(stream_of, write_data):
    levels = [(1, 0.5), (2, 0.0), (3, 1.0)]
    noisy = write_data([episode(k, 20, 1.0, noise=level) for k, level in levels], VECTOR, name="noisy")
    names, *_ = better_first(drawn(stream_of(noisy, rank=Rank.noise), 20))
    assert set(map(tuple, names.tolist())) == {(2, 1), (2, 3), (1, 3)}
    with pytest.raises(UserError, match="expected episodes of different rank, got 3 of return 1; use"):
        stream_of(noisy)


def test_margin_limits_pairs_to_larger_differences(stream_of):
    stream = stream_of(margin=2.0, validation=0.34)
    value = {name: given[1] for name, given in EPISODES.items()}
    for batch in (drawn(stream), stream.held_out()[0].__dict__):
        pairs = set(map(tuple, better_first(batch)[0].tolist()))
        assert pairs and all(value[better] - value[worse] > 2 for better, worse in pairs)
    names, *_ = better_first(drawn(stream_of(margin=2.0)))
    clear = {(a, b) for a in value for b in value if value[a] - value[b] > 2}
    assert set(map(tuple, names.tolist())) == clear
    with pytest.raises(UserError, match="^margin: expected a number below 8, .* 'demos', got 8; lower it"):
        stream_of(margin=8.0)


def test_data_that_cannot_be_ranked_is_refused(stream_of, write_data, data):
    one = write_data([episode(1, 20, 1.0)], VECTOR, name="one")
    with pytest.raises(UserError, match="dataset 'demos': expected two or more episodes, got 1; collect more"):
        stream_of(one)
    equal = write_data([episode(1, 20, -3.0), episode(2, 9, -3.0)], VECTOR, name="equal")
    with pytest.raises(
        UserError, match="dataset 'demos': expected episodes of different rank, got 2 of return -3; use"
    ):
        stream_of(equal)
    with pytest.raises(UserError, match="'demos': expected noise levels in infos/noise, got none"):
        stream_of(data, rank=Rank.noise)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"margin": -1.0}, r"margin: expected a number in \[0, inf\) for rank=true_return, got -1"),
        ({"margin": 1.0, "rank": Rank.noise}, r"margin: expected a number in \[0, 1\) for rank=noise, got 1"),
        ({"min_length": 0}, "min_length: expected 1 to max_length=60 rows, got 0"),
        ({"min_length": 9, "max_length": 8}, "min_length: expected 1 to max_length=8 rows, got 9"),
        ({"frame_stride": 0}, "frame_stride: expected 1 or more, got 0"),
        ({"full_trajectory_prob": 1.1}, r"full_trajectory_prob: expected a fraction in \[0, 1\], got 1.1"),
        ({"validation": 1.0}, r"validation: expected a fraction in \[0, 1\), got 1"),
    ],
)
def test_preference_pairs_with_a_wrong_value_are_refused_by_its_key(wrong, message):
    with pytest.raises(UserError, match=f"^{message}"):
        PreferencePairs(**wrong)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.34, 2), (0.99, 3)])
def test_best_and_worst_episodes_are_never_held_out(share, count):
    ranks = np.array([given[1] for given in EPISODES.values()])
    held = held_out_episodes(ranks, share)
    assert len(set(held)) == count and not {1, 2} & set(held)


def test_held_out_episodes_are_never_drawn_and_are_in_every_validation_pair(stream_of):
    stream = stream_of(validation=0.34)
    names, *_ = better_first(drawn(stream))
    (batch,) = stream.held_out()
    checked, *_ = better_first(batch.__dict__)
    held = set(range(1, 7)) - set(names.flatten().tolist())
    assert len(held) == 2 and not held & {2, 3}
    assert all(held & set(pair) for pair in checked.tolist())
    value = {name: given[1] for name, given in EPISODES.items()}
    assert all(value[better] > value[worse] for better, worse in checked.tolist())
    assert torch.equal(stream.held_out()[0].obs, batch.obs)
    assert len(stream_of(validation=0.34, members=2).held_out()[0].preferred) == 2
    assert stream_of().held_out() == []


def test_members_draw_different_pairs(stream_of):
    batch = stream_of(members=3).next()
    assert batch.obs.shape == (3, 16, 2, 5, 2) and batch.preferred.shape == (3, 16)
    assert not torch.equal(batch.obs[0], batch.obs[1])


@pytest.mark.parametrize("members", [1, 2])
def test_resident_and_mapped_data_give_equal_batches(stream_of, monkeypatch, members):
    resident = stream_of(members=members)
    monkeypatch.setattr(module, "MAX_DEVICE_BYTES", 0)
    mapped = stream_of(members=members)
    for name in COLUMNS:
        assert torch.equal(getattr(resident.next(), name), getattr(mapped.next(), name))


@pytest.mark.parametrize("used", [0, 1, 63, 64, 65, 100])
def test_restore_within_a_prefetched_block_gives_the_same_bits(stream_of, used):
    first, second = stream_of(full_trajectory_prob=0.5), stream_of(full_trajectory_prob=0.5)
    for _ in range(used):
        first.next()
    tensors, state = first.save()
    second.restore(tensors, state)
    tensors, state = second.save()
    second.restore(tensors, state)
    for _ in range(70):
        one, other = first.next(), second.next()
        assert torch.equal(one.obs, other.obs) and torch.equal(one.preferred, other.preferred)
