import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from lfd.envs import Atari, Spaces, Step, VecEnv
from lfd.envs.atari import Stacked

BREAKOUT = Atari("ALE/Breakout-v5")


class Frames(VecEnv):
    """Two games whose frames tell (env, count); a script says when they end and how many lives are left."""

    def __init__(self, ends: dict[int, list[bool]], lives: dict[int, list[int]]) -> None:
        self.num_envs = 2
        self.spaces = Spaces(gym.spaces.Box(0, 255, (1, 2), np.uint8), gym.spaces.Discrete(2))
        self._ends, self._lives, self._now = ends, lives, 0
        self._left = np.array([3, 3])

    def _frame(self, count: int) -> NDArray[np.uint8]:
        return np.array([[[0, count]], [[1, count]]], np.uint8)

    def reset(self, seeds: object) -> NDArray[np.uint8]:
        self._now = 0
        return self._frame(0)

    def step(self, action: object) -> Step:
        self._now += 1
        over = np.array(self._ends.get(self._now, [False, False]))
        self._left = np.array(self._lives.get(self._now, self._left))
        last = self._frame(self._now)
        obs = last.copy()
        obs[over, 0, 1] = 100
        no = np.zeros(2, np.bool_)
        return Step(obs, last, np.zeros(2, np.float32), over, no, ~no, [], {"lives": self._left})

    def close(self) -> None: ...


def counts(obs: NDArray[np.uint8]) -> list[list[int]]:
    return [[int(frame[0, 1]) for frame in stack] for stack in obs]


def test_the_first_frame_of_an_episode_fills_the_stack() -> None:
    env = Stacked(Frames({2: [False, True]}, {}), 3)
    assert counts(env.reset([0, 1])) == [[0, 0, 0]] * 2
    assert counts(env.step(np.zeros(2)).obs) == [[0, 0, 1]] * 2
    step = env.step(np.zeros(2))
    assert counts(step.next_obs) == [[0, 1, 2]] * 2
    assert counts(step.obs) == [[0, 1, 2], [100, 100, 100]]
    assert counts(env.step(np.zeros(2)).obs) == [[1, 2, 3], [100, 100, 3]]
    assert counts(env.reset([0, 1])) == [[0, 0, 0]] * 2


@pytest.mark.parametrize("life_loss", [True, False])
def test_a_lost_life_ends_the_episode_only_if_told(life_loss: bool) -> None:
    # in step 2 the first game loses a life; in step 3 the second is over, and its next game has 3 lives again
    env = Stacked(Frames({3: [False, True]}, {2: [2, 3], 3: [2, 3]}), 2, life_loss)
    env.reset([0, 1])
    steps = [env.step(np.zeros(2)) for _ in range(4)]
    assert [step.terminated.tolist() for step in steps] == [[False] * 2, [life_loss, False], [False, True], [False] * 2]
    assert counts(steps[1].next_obs)[0] == [1, 2]
    assert counts(steps[1].obs)[0] == ([2, 2] if life_loss else [1, 2])


def test_training_games_make_the_frames_of_the_loop() -> None:
    """From one start and the same actions: the vector environment for training, the loop for scores."""
    fast = Atari("ALE/Breakout-v5", life_loss=False).make(1, training=True)
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


def test_training_ends_at_a_lost_life_and_scores_do_not() -> None:
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


def test_max_frames_cuts_a_game_off() -> None:
    for training in (True, False):
        env = Atari("ALE/Pong-v5", max_frames=400).make(1, training)
        env.reset([0])
        steps = [env.step(np.array([0])) for _ in range(101)]
        cut = [i for i, step in enumerate(steps) if step.truncated[0]]
        assert cut and 90 <= cut[0] < 100 and not any(step.terminated[0] for step in steps)


def test_sticky_actions_are_a_choice() -> None:
    frames = {}
    for sticky in (0.0, 0.25):
        env = Atari("ALE/Pong-v5", repeat_action_probability=sticky).make(1, training=True)
        env.reset([0])
        frames[sticky] = [env.step(np.array([2 + i % 2])).obs.tobytes() for i in range(40)]
    assert frames[0.0] != frames[0.25]


def test_true_rewards() -> None:
    for training in (True, False):
        env = Atari("ALE/Skiing-v5").make(1, training)  # takes away several points a step
        env.reset([0])
        assert all(env.step(np.array([0])).reward[0] <= -6 for _ in range(3))


def test_actions_have_names() -> None:
    assert BREAKOUT.action_names() == ["noop", "fire", "right", "left"]


@pytest.mark.parametrize("training", [True, False])
def test_the_next_ball_is_launched_whatever_is_done_after_a_lost_life(training):
    env = Atari("ALE/Breakout-v5", life_loss=False).make(2, training)
    env.reset([0, 1])
    lengths = []
    for _ in range(260):
        lengths += [length for _, _, length in env.step(np.zeros(2, np.int64)).finished]
    assert lengths and max(lengths) < 250  # who never launches it waits for half an hour of play


class Lives(Frames):
    """Frames whose actions are kept."""

    def step(self, action):
        self.taken = [*getattr(self, "taken", []), np.asarray(action).tolist()]
        return super().step(action)


@pytest.mark.parametrize("life_loss", [True, False])
def test_the_action_after_a_lost_life_is_fire(life_loss):
    # in step 2 the first game loses a life and in step 3 its last one; in step 3 the second loses one too
    games = Lives({3: [True, False]}, {2: [2, 3], 3: [0, 2], 4: [3, 2]})
    env = Stacked(games, 2, life_loss, fire=1)
    env.reset([0, 1])
    for _ in range(5):
        env.step(np.zeros(2, np.int64))
    assert games.taken == [[0, 0], [0, 0], [1, 0], [0, 1], [0, 0]]


def test_only_games_that_are_played_otherwise_have_another_key():
    assert "fire" in BREAKOUT.fingerprint() and "fire" not in Atari("ALE/Pong-v5").fingerprint()
    assert "fire" not in Atari("ALE/Freeway-v5").fingerprint()


def test_games_without_lives_or_fire_take_every_action_as_it_is():
    pong, freeway = Atari("ALE/Pong-v5").single(), Atari("ALE/Freeway-v5").single()
    for game in (pong, freeway):
        game.reset(seed=0)
        taken = []
        inner = game.env
        step = inner.step
        inner.step = lambda action, step=step, taken=taken: taken.append(action) or step(action)
        for action in (2, 0, 2, 0):
            game.step(action)
        assert taken == [2, 0, 2, 0]
