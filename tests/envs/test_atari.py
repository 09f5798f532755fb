"""Atari: stacks of frames, lost lives and FIRE; equal games in training and evaluation."""

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from lfd.envs import Atari, Spaces, Step, VecEnv
from lfd.envs.atari import FrameStack

BREAKOUT = Atari("ALE/Breakout-v5")


class Frames(VecEnv):
    """Two games whose frames are (env, count); `ends` and `lives` hold, by step, which games end and the lives left."""

    def __init__(self, ends: dict[int, list[bool]], lives: dict[int, list[int]]) -> None:
        self.num_envs = 2
        self.spaces = Spaces(gym.spaces.Box(0, 255, (1, 2), np.uint8), gym.spaces.Discrete(2))
        self._ends, self._lives, self._now = ends, lives, 0
        self._lives_left = np.array([3, 3])

    def _frame(self, count: int) -> NDArray[np.uint8]:
        return np.array([[[0, count]], [[1, count]]], np.uint8)

    def reset(self, seeds: object) -> NDArray[np.uint8]:
        self._now = 0
        return self._frame(0)

    def step(self, action: object) -> Step:
        self._now += 1
        done = np.array(self._ends.get(self._now, [False, False]))
        self._lives_left = np.array(self._lives.get(self._now, self._lives_left))
        last = self._frame(self._now)
        obs = last.copy()
        obs[done, 0, 1] = 100
        no = np.zeros(2, np.bool_)
        return Step(obs, last, np.zeros(2, np.float32), done, no, ~no, [], {"lives": self._lives_left})

    def close(self) -> None: ...


def frame_counts(obs: NDArray[np.uint8]) -> list[list[int]]:
    return [[int(frame[0, 1]) for frame in stack] for stack in obs]


def test_frame_stack_at_episode_start_repeats_the_first_frame() -> None:
    env = FrameStack(Frames({2: [False, True]}, {}), 3)
    assert frame_counts(env.reset([0, 1])) == [[0, 0, 0]] * 2
    assert frame_counts(env.step(np.zeros(2)).obs) == [[0, 0, 1]] * 2
    step = env.step(np.zeros(2))
    assert frame_counts(step.next_obs) == [[0, 1, 2]] * 2
    assert frame_counts(step.obs) == [[0, 1, 2], [100, 100, 100]]
    assert frame_counts(env.step(np.zeros(2)).obs) == [[1, 2, 3], [100, 100, 3]]
    assert frame_counts(env.reset([0, 1])) == [[0, 0, 0]] * 2


@pytest.mark.parametrize("terminal_on_life_loss", [True, False])
def test_frame_stack_lost_life_ends_the_episode_only_with_life_loss(terminal_on_life_loss: bool) -> None:
    # in step 2 the first game loses a life; in step 3 the second is over, and its next game has 3 lives again
    env = FrameStack(Frames({3: [False, True]}, {2: [2, 3], 3: [2, 3]}), 2, terminal_on_life_loss)
    env.reset([0, 1])
    steps = [env.step(np.zeros(2)) for _ in range(4)]
    assert [step.terminated.tolist() for step in steps] == [
        [False] * 2,
        [terminal_on_life_loss, False],
        [False, True],
        [False] * 2,
    ]
    assert frame_counts(steps[1].next_obs)[0] == [1, 2]
    assert frame_counts(steps[1].obs)[0] == ([2, 2] if terminal_on_life_loss else [1, 2])


def test_atari_training_and_evaluation_give_equal_frames_and_rewards() -> None:
    """From one start and the same actions: the vector environment for training, the loop for scores."""
    fast = Atari("ALE/Breakout-v5", terminal_on_life_loss=False).make(1, training=True)
    slow = BREAKOUT.make(1, training=False)
    assert fast.spaces == slow.spaces == BREAKOUT.spaces() and fast.spaces.observation.shape == (4, 84, 84)
    first = fast.reset([0])
    # the two draw the number of no-ops with generators of their own: look for a seed that gives the same
    assert any(np.array_equal(slow.reset([seed]), first) for seed in range(100))
    rng = np.random.default_rng(0)
    for _ in range(400):
        action = rng.integers(0, 4, 1)
        ours, theirs = fast.step(action), slow.step(action)
        np.testing.assert_array_equal(ours.next_obs, theirs.next_obs)
        np.testing.assert_array_equal(ours.reward, theirs.reward)
        assert ours.terminated == theirs.terminated and ours.finished == theirs.finished
        if theirs.terminated[0]:
            return
    raise AssertionError("no game ended")


def test_atari_lost_life_ends_training_episodes_but_not_evaluation_episodes() -> None:
    whole, lives = BREAKOUT.make(1, training=False), BREAKOUT.make(1, training=True)
    whole.reset([0])
    lives.reset([0])
    noop = np.array([0])
    ends, finished = 0, []
    for _ in range(300):
        step = lives.step(np.array([1]))
        ends += int(step.terminated[0])
        finished += step.finished
    assert ends >= 5 * len(finished) > 0
    assert not any(whole.step(noop).terminated[0] for _ in range(100)), "a game has five lives, of some 25 steps each"


def test_atari_max_frames_truncates_the_game() -> None:
    for training in (True, False):
        env = Atari("ALE/Pong-v5", max_frames=400).make(1, training)
        env.reset([0])
        steps = [env.step(np.array([0])) for _ in range(101)]
        cut = [i for i, step in enumerate(steps) if step.truncated[0]]
        assert cut and 90 <= cut[0] < 100 and not any(step.terminated[0] for step in steps)


def test_atari_repeat_action_probability_changes_the_frames() -> None:
    frames = {}
    for sticky in (0.0, 0.25):
        env = Atari("ALE/Pong-v5", repeat_action_probability=sticky).make(1, training=True)
        env.reset([0])
        frames[sticky] = [env.step(np.array([2 + i % 2])).obs.tobytes() for i in range(40)]
    assert frames[0.0] != frames[0.25]


def test_atari_rewards_are_not_clipped() -> None:
    for training in (True, False):
        env = Atari("ALE/Skiing-v5").make(1, training)  # takes away several points a step
        env.reset([0])
        assert all(env.step(np.array([0])).reward[0] <= -6 for _ in range(3))


def test_atari_action_names_are_those_of_the_game() -> None:
    assert BREAKOUT.action_names() == ["noop", "fire", "right", "left"]


@pytest.mark.parametrize("training", [True, False])
def test_atari_noops_after_a_lost_life_still_launch_the_next_ball(training):
    env = Atari("ALE/Breakout-v5", terminal_on_life_loss=False).make(2, training)
    env.reset([0, 1])
    lengths = []
    for _ in range(260):
        lengths += [length for _, _, length in env.step(np.zeros(2, np.int64)).finished]
    assert lengths and max(lengths) < 250  # without FIRE the game would wait for half an hour of play


class RecordedFrames(Frames):
    """Records the actions of each step."""

    def step(self, action):
        self.actions = [*getattr(self, "actions", []), np.asarray(action).tolist()]
        return super().step(action)


@pytest.mark.parametrize("terminal_on_life_loss", [True, False])
def test_frame_stack_after_a_lost_life_replaces_the_action_by_fire(terminal_on_life_loss):
    # in step 2 the first game loses a life and in step 3 its last one; in step 3 the second loses one too
    games = RecordedFrames({3: [True, False]}, {2: [2, 3], 3: [0, 2], 4: [3, 2]})
    env = FrameStack(games, 2, terminal_on_life_loss, fire=1)
    env.reset([0, 1])
    for _ in range(5):
        env.step(np.zeros(2, np.int64))
    assert games.actions == [[0, 0], [0, 0], [1, 0], [0, 1], [0, 0]]


def test_atari_fingerprint_names_fire_only_in_games_with_fire_and_lives():
    assert "fire" in BREAKOUT.fingerprint() and "fire" not in Atari("ALE/Pong-v5").fingerprint()
    assert "fire" not in Atari("ALE/Freeway-v5").fingerprint()


def test_atari_without_lives_or_fire_passes_actions_unchanged():
    pong, freeway = Atari("ALE/Pong-v5").make_single(), Atari("ALE/Freeway-v5").make_single()
    for game in (pong, freeway):
        game.reset(seed=0)
        actions = []
        inner = game.env
        step = inner.step
        inner.step = lambda action, step=step, actions=actions: actions.append(action) or step(action)
        for action in (2, 0, 2, 0):
            game.step(action)
        assert actions == [2, 0, 2, 0]
