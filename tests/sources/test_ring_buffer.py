"""The ring buffer: which transitions it holds, stacks of frames, cursors of a resumed run, and the sum tree."""

import gymnasium as gym
import numpy as np
import pytest

from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.sources.priorities import SumTree
from lfd.sources.ring_buffer import RingBuffer

VECTOR = Spaces(gym.spaces.Box(-np.inf, np.inf, (1,), np.float32), gym.spaces.Discrete(2))
FRAMES = Spaces(gym.spaces.Box(0, 255, (4, 2, 2), np.uint8), gym.spaces.Discrete(2))
NO = np.zeros(1, np.bool_)
YES = np.ones(1, np.bool_)
ENV = np.zeros(1, np.int64)


def seen(number: int, stack: int = 1) -> np.ndarray:
    if stack == 1:
        return np.full((1, 1), number, np.float32)
    return np.full((1, stack, 2, 2), number, np.uint8)


def fill(ring: RingBuffer, start: int, number: int, lengths: int) -> None:
    """Transitions k -> k + 1 with reward k in episodes of so many steps; a new one begins with its own number."""
    for k in range(start, start + number):
        over = YES if (k + 1) % lengths == 0 else NO
        stack = ring.stack
        ring.add(ENV, np.zeros(1, np.int64), np.full(1, k, np.float32), over, NO, seen(k + 1, stack))
        if over[0]:
            ring.end(ENV, seen(k + 1, stack))


def held(ring: RingBuffer) -> np.ndarray:
    return ring.column("reward", *ring.locate(np.arange(len(ring))))


def test_ring_holds_the_last_capacity_transitions_after_many_laps(tmp_path):
    ring = RingBuffer(tmp_path, VECTOR, 1, capacity=10, slack=5, stack=1)
    ring.begin(ENV, seen(0))
    for round_ in range(100):
        fill(ring, round_, 1, lengths=1)
        ring.cursor()
    assert held(ring).tolist() == list(range(90, 100))
    env, row = ring.locate(np.arange(10))
    assert ring.observations(env, row)[:, 0].tolist() == list(range(90, 100))
    assert ring.observations(env, row + 1)[:, 0].tolist() == list(range(91, 101))


@pytest.mark.parametrize("lengths", [1, 3, 1000])
def test_restored_ring_holds_all_transitions_of_its_cursor(tmp_path, lengths):
    ring = RingBuffer(tmp_path, VECTOR, 1, capacity=10, slack=20, stack=1)
    ring.begin(ENV, seen(0))
    for start in range(0, 60, 20):
        cursor = ring.cursor()
        fill(ring, start, 20, lengths)
    cursor, before = ring.cursor(), held(ring)
    fill(ring, 60, 20, lengths)
    again = RingBuffer(tmp_path, VECTOR, 1, capacity=10, slack=20, stack=1)
    again.restore(cursor)
    assert np.array_equal(held(again), before)
    fill(again, 60, 7, lengths)
    assert held(again).tolist() == list(range(57, 67))


def test_add_beyond_the_slack_is_refused(tmp_path):
    ring = RingBuffer(tmp_path, VECTOR, 1, capacity=10, slack=20, stack=1)
    ring.begin(ENV, seen(0))
    with pytest.raises(
        UserError, match="reset_every: expected at most 20 transitions in the replay buffer .*; set a smaller"
    ):
        fill(ring, 0, 21, lengths=4)


def test_stack_repeats_the_first_frame_and_stays_within_the_episode(tmp_path):
    ring = RingBuffer(tmp_path, FRAMES, 1, capacity=20, slack=20, stack=4)
    ring.begin(ENV, seen(0, 4))
    fill(ring, 0, 6, lengths=3)
    env, row = ring.locate(np.arange(6))
    stacks = ring.observations(env, row)[:, :, 0, 0].tolist()
    assert stacks == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 2], [3, 3, 3, 3], [3, 3, 3, 4], [3, 3, 4, 5]]
    after = ring.observations(env, row + 1)[:, :, 0, 0].tolist()
    assert after == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [3, 3, 3, 4], [3, 3, 4, 5], [3, 4, 5, 6]]


def test_cut_truncates_running_episodes_only(tmp_path):
    ring = RingBuffer(tmp_path, VECTOR, 2, capacity=20, slack=20, stack=1)
    both = np.arange(2)
    ring.begin(both, np.zeros((2, 1), np.float32))
    none = np.zeros(2, np.bool_)
    ring.add(both, np.zeros(2, np.int64), np.ones(2, np.float32), np.array([False, True]), none, np.ones((2, 1)))
    ring.end(np.array([1]), np.full((1, 1), 7.0))
    ring.cut()
    ring.begin(both, np.full((2, 1), 9.0))
    env, row = ring.locate(np.arange(2))
    assert ring.column("truncated", env, row).tolist() == [True, False]
    assert ring.observations(env, row + 1).tolist() == [[1.0], [1.0]]


def test_environments_of_unequal_length_are_drawn_completely(tmp_path):
    ring = RingBuffer(tmp_path, VECTOR, 2, capacity=20, slack=20, stack=1)
    ring.begin(np.arange(2), np.zeros((2, 1), np.float32))
    fill(ring, 0, 3, lengths=100)
    ring.add(np.array([1]), np.zeros(1, np.int64), np.full(1, 50, np.float32), NO, NO, seen(51))
    assert sorted(held(ring).tolist()) == [0, 1, 2, 50]


def test_ring_ignores_an_incomplete_file_of_a_killed_process(tmp_path):
    (tmp_path / "reward.npy.tmp").write_bytes(b"half")
    ring = RingBuffer(tmp_path, VECTOR, 1, capacity=4, slack=4, stack=1)
    ring.begin(ENV, seen(0))
    fill(ring, 0, 3, lengths=100)
    assert held(ring).tolist() == [0, 1, 2]


def test_sum_tree_draws_in_exact_proportion():
    tree = SumTree(5)
    weights = np.array([1.0, 0.0, 3.0, 2.0, 4.0])
    tree.set(np.arange(5), weights)
    shares = (np.arange(10_000) + 0.5) / 10_000
    counts = np.bincount(tree.find(shares), minlength=5)
    assert counts.tolist() == (1000 * weights).astype(int).tolist()


def test_sum_tree_never_finds_a_leaf_without_weight():
    tree = SumTree(6)
    tree.set(np.arange(3), np.array([0.1, 0.2, 0.3]))
    shares = np.array([0.0, np.nextafter(1.0, 0.0), 1.0])
    assert set(tree.find(shares)) <= {0, 1, 2}


def test_restored_sum_tree_finds_the_same_leaves():
    tree, other = SumTree(7), SumTree(7)
    tree.set(np.arange(7), np.arange(7.0))
    other.restore(tree.save())
    shares = np.linspace(0, 0.999, 50)
    assert np.array_equal(tree.find(shares), other.find(shares)) and other.total == tree.total
