"""The replay buffer: successors, exploration, priorities, rounds, and exact resumption."""

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.envs import Gym
from lfd.errors import UserError
from lfd.sources.priorities import Priorities
from lfd.sources.replay import Replay
from lfd.sources.ring_buffer import RingBuffer
from tests import composed

SIZES = [8]


def agent_for(env, seed=0):
    torch.manual_seed(seed)
    return composed.q_net(SIZES).build(env.spaces())


def check_transitions(batch, gamma=0.9, steps=1):
    """Every row against the rules of the counting environment."""
    name, t = batch.obs[:, 0], batch.obs[:, 1]
    assert torch.equal(batch.next_obs[:, 0], name), "a transition crosses a reset"
    taken = batch.next_obs[:, 1] - t
    assert ((taken >= 1) & (taken <= steps)).all()
    for row in range(len(name)):
        rewards = [(float(t[row]) + 1 + k) * gamma**k for k in range(int(taken[row]))]
        assert float(batch.reward[row]) == pytest.approx(sum(rewards), rel=1e-5)
    length = 1 + name % 5
    over = batch.next_obs[:, 1] == length
    assert torch.equal(batch.terminated, over & (name % 2 == 0))
    discount = torch.where(batch.terminated, 0.0, gamma**taken)
    torch.testing.assert_close(batch.discount, discount)
    return taken, over


@pytest.mark.parametrize("steps", [1, 3])
def test_successors_are_right_at_terminations_truncations_and_resets(counting, open_source, steps):
    stream = open_source(Replay(400, 3, 50, n_step=steps), agent_for(counting), counting)
    seen = Counter()
    for index in range(1, 30):
        for _ in range(20):
            batch = stream.next()
            taken, over = check_transitions(batch, steps=steps)
            seen["terminated"] += int(batch.terminated.sum())
            seen["truncated"] += int((batch.truncated & over).sum())
            seen["cut"] += int((batch.truncated & ~over).sum())
            seen["long"] += int((taken == steps).sum())
            # Short of n steps only where the episode, or so far the data, ends.
            short = (taken < steps) & ~batch.terminated & ~batch.truncated
            assert all(row in stream._obs.tolist() for row in batch.next_obs[short].tolist())
        stream.reset_envs(index)
    assert all(seen[kind] > 0 for kind in ("terminated", "truncated", "cut", "long"))


def test_reset_rows_of_next_step_autoreset_are_no_transitions(counting_next_step, open_source):
    stream = open_source(Replay(400, 3, 50), agent_for(counting_next_step), counting_next_step)
    for _ in range(300):
        check_transitions(stream.next())
    assert stream.env_steps < 300 + 50 + 3


def test_restored_replay_continues_with_the_same_batches(counting, open_source, tmp_path):
    source = Replay(64, 3, 20, n_step=2, epsilon=0.5, per_alpha=0.6)
    agent = agent_for(counting)
    first = open_source(source, agent, counting, batch=8)
    for _ in range(50):
        first.feedback({"priority": first.next().reward.abs()})
    tensors, state = first.save()
    tensors = {name: value.clone() for name, value in tensors.items()}

    def go_on(stream):
        stream.reset_envs(1)
        batches = []
        for _ in range(60):
            batches.append(stream.next())
            stream.feedback({"priority": batches[-1].reward.abs()})
        return batches

    expected = go_on(first)
    second = source.open(first.context)
    second.restore(tensors, state)
    for one, other in zip(expected, go_on(second), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dict__)


def test_env_steps_follow_learning_starts_and_env_steps_per_update(counting, open_source):
    stream = open_source(Replay(1000, 4, 100, env_steps_per_update=0.5), agent_for(counting), counting)
    stream.next()
    assert stream.env_steps == 100
    for _ in range(79):
        stream.next()
    assert stream.env_steps == 100 + 40


def test_epsilon_is_the_fraction_of_random_actions(counting, open_source):
    agent = agent_for(counting)
    with torch.no_grad():
        agent.nets["critic"].nets[0].head[-1].bias.copy_(torch.tensor([0.0, 1e6]))  # always action 1, unless exploring
    stream = open_source(
        Replay(20_000, 8, 8, env_steps_per_update=8.0, epsilon=0.25), agent, counting, reset_every=2_000
    )
    for _ in range(1_500):
        stream.next()
    actions = stream._buffer._ring.column(
        "action", *stream._buffer._ring.locate(np.arange(8, len(stream._buffer._ring)))
    )
    assert 1 - actions.mean() == pytest.approx(0.125, abs=0.015)


def test_action_noise_stays_inside_the_bounds(counting_continuous, open_source):
    agent = composed.soft_policy_critic(SIZES).build(counting_continuous.spaces())
    stream = open_source(Replay(1000, 4, 10, env_steps_per_update=4.0, action_noise=0.5), agent, counting_continuous)
    actions = torch.cat([stream.next().action for _ in range(50)])
    assert actions.shape[1:] == (1,) and actions.abs().max() <= 2.0 and actions.std() > 0.1


def test_prioritized_draws_have_exact_proportions_and_weights(counting, tmp_path):
    ring = RingBuffer(tmp_path, counting.spaces(), 1, capacity=4, slack=10, stack=1)
    env = np.zeros(1, np.int64)
    ring.begin(env, np.zeros((1, 2), np.float32))
    priorities = Priorities(0.5, 1.0, ring)
    no = np.zeros(1, np.bool_)
    for k in range(6):
        ring.add(env, np.zeros(1, np.int64), np.full(1, k, np.float32), no, no, np.zeros((1, 2), np.float32))
        priorities.add(env)
    errors = {2: 1.0, 3: 4.0, 4: 9.0, 5: 16.0}  # the last four transitions
    leaves = np.array([k % 4 for k in errors])
    priorities.update(leaves, np.array(list(errors.values())))
    share = (np.arange(10_000) + 0.5) / 10_000
    leaf, weight = priorities.draw(share, 0)
    drawn = Counter(ring.column("reward", *priorities.locate(leaf)).astype(int).tolist())
    for transition, error in errors.items():
        assert drawn[transition] == pytest.approx(10_000 * error**0.5 / 10, abs=2)
    # beta = 1: weights are inverse to the probabilities, and the rarest counts 1.
    rewards = ring.column("reward", *priorities.locate(leaf))
    for transition, error in errors.items():
        assert weight[rewards == transition] == pytest.approx(1 / error**0.5, rel=1e-4)


def test_new_transitions_get_the_largest_priority(counting, open_source):
    source = Replay(1000, 2, 10, per_alpha=1.0, env_steps_per_update=2.0)
    stream = open_source(source, agent_for(counting), counting)
    stream.next()
    stream.feedback({"priority": torch.full((64,), 7.0)})
    stream.next()
    newest = stream._buffer._ring.count - 1
    leaf = np.arange(2) * stream._buffer._ring.capacity + newest % stream._buffer._ring.capacity
    assert stream._buffer._priorities._tree.weights(leaf) == pytest.approx([7.0, 7.0], rel=1e-4)


def test_weight_is_provided_only_with_priorities(counting, open_source):
    assert "weight" not in Replay().provides({})
    assert "weight" in Replay(per_alpha=0.6).provides({})
    batch = open_source(Replay(100, 2, 10, per_alpha=0.6), agent_for(counting), counting).next()
    assert batch.weight.shape == (64,) and batch.weight.max() == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"buffer_size": 0}, "buffer_size: expected 1 or more, got 0"),
        ({"learning_starts": 200_000}, "learning_starts: expected at most buffer_size=100000, got 200000; lower it"),
        ({"env_steps_per_update": 0.0}, "env_steps_per_update: expected a number above 0, got 0.0"),
        ({"epsilon": 1.5}, r"epsilon: expected a value in \[0, 1\], got 1.5"),
        ({"per_alpha": 1.5}, r"per_alpha: expected a number in \[0, 1\], got 1.5"),
    ],
)
def test_replay_with_a_wrong_value_is_refused_by_its_key(wrong, message):
    with pytest.raises(UserError, match=f"^{message}"):
        Replay(**wrong)


def test_constant_reward_replaces_that_of_the_environment(counting, open_source):
    stream = open_source(Replay(100, 2, 50, n_step=2, constant_reward=-1.0), agent_for(counting), counting)
    batch = stream.next()
    taken = batch.next_obs[:, 1] - batch.obs[:, 1]
    torch.testing.assert_close(batch.reward, torch.where(taken == 2, -1.9, -1.0))
    assert torch.equal(batch.true_reward, batch.obs[:, 1] + 1)


class Clock(gym.Env):
    """Sees how many steps it has ever made; an episode has 7, the last of which is a truncation."""

    def __init__(self, render_mode=None):
        self.observation_space, self.action_space = gym.spaces.Box(0, np.inf, (1,)), gym.spaces.Discrete(2)
        self.clock = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([self.clock], np.float32), {}

    def step(self, action):
        self.clock += 1
        return np.array([self.clock], np.float32), 0.0, False, self.clock % 7 == 0, {}


gym.register("Clock-v0", Clock)


def in_rounds(stream, sizes):
    """Rounds of a fresh and an old phase of these many steps: (number of the round, batch) of each phase."""
    fresh, old = [], []
    for number in range(len(sizes)):
        stream.begin_round()
        before = stream.env_steps
        for phase, steps, is_fresh in ((fresh, 6, True), (old, sizes[number], False)):
            stream.begin_phase(is_fresh)
            phase += [(number, stream.next()) for _ in range(steps)]
        assert stream.env_steps == before
    return fresh, old


@pytest.mark.parametrize("sequence", [1, 4])
def test_round_collects_at_its_start_and_on_policy_phase_draws_from_it_only(sequence, open_source):
    env = Gym("Clock-v0")
    source = Replay(90, 3, 30, env_steps_per_update=1.5)
    stream = open_source(source, agent_for(env), env, batch=64, sequence=sequence)
    starts, begin = [], stream.begin_round
    stream.begin_round = lambda: starts.append(stream.env_steps // 3) or begin()
    fresh, old = in_rounds(stream, [10, 10, 20])
    # 1.5 for each step of the second phase: 15 for 10 steps; the first round collects learning_starts
    assert starts == [0, 10, 15] and stream.env_steps == 60
    for number, window in enumerate([range(10), range(10, 15), range(15, 20)]):
        assert {clock for n, batch in fresh if n == number for clock in batch.obs.flatten().tolist()} == set(window)
    assert {clock for n, batch in old if n == 2 for clock in batch.obs.flatten().tolist()} == set(range(20))


def test_round_without_credit_collects_one_sequence(open_source):
    env = Gym("Clock-v0")
    stream = open_source(Replay(90, 3, 30, env_steps_per_update=0.1), agent_for(env), env, sequence=4)
    in_rounds(stream, [5, 5, 60])
    # 4 of each environment in the second and third round, though 0.5 and 1 were asked for.
    assert stream.env_steps == 30 + 2 * 12
    stream.begin_round()
    assert stream.env_steps == 30 + 3 * 12, "what was given is not owed again"


def test_on_policy_draws_are_uniform_and_ignore_priorities(counting, open_source):
    stream = open_source(Replay(200, 2, 20, per_alpha=1.0, env_steps_per_update=1.0), agent_for(counting), counting)
    stream.begin_round()
    stream.begin_phase(True)
    stream.next()
    stream.feedback({"priority": torch.full((64,), 1e6)})
    assert stream._buffer._priorities._tree.total == pytest.approx(20)


def test_restored_replay_with_rounds_continues_with_the_same_batches(counting, open_source):
    source = Replay(64, 3, 20, n_step=2, epsilon=0.5, env_steps_per_update=1.7)
    first = open_source(source, agent_for(counting), counting, batch=8)
    in_rounds(first, [7, 9])
    tensors, state = first.save()
    tensors = {name: value.clone() for name, value in tensors.items()}

    def go_on(stream):
        stream.reset_envs(1)
        return [batch for phase in in_rounds(stream, [5, 8, 3]) for _, batch in phase]

    expected = go_on(first)
    second = source.open(first.context)
    second.restore(tensors, state)
    for one, other in zip(expected, go_on(second), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dict__)


@pytest.mark.parametrize("rate", [1.0, 6.0])
def test_env_steps_per_update_holds_with_next_step_resets(counting_next_step, open_source, rate):
    stream = open_source(Replay(20_000, 4, 10, rate), agent_for(counting_next_step), counting_next_step)
    stream.next()
    before = stream.env_steps
    for _ in range(400):
        stream.next()
    assert stream.env_steps - before == pytest.approx(400 * rate, abs=4)
