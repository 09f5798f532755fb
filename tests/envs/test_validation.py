"""Invalid values of environments end in one line with environment, step and value; harmless ones are converted."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lfd.envs import Gym
from lfd.envs.gym_vec_env import GymVecEnv
from lfd.envs.spaces import simplify_spaces
from lfd.envs.sync_vec_env import SyncVecEnv
from lfd.envs.validation import MAX_REWARD
from lfd.errors import Interrupted, UserError
from lfd.log import progress
from lfd.stages.collect import Collect

BOX = gym.spaces.Box(-5, 5, (3,), np.float32)
BYTES = gym.spaces.Box(0, 255, (2,), np.uint8)
FEW = gym.spaces.Box(0, 5, (2,), np.int64)
GRID = gym.spaces.Box(-1, 1, (2, 3), np.float32)
DICT = gym.spaces.Dict(a=gym.spaces.Dict(b=gym.spaces.Box(-1, 1, (2,), np.float32)), c=gym.spaces.Discrete(3))
NAMED = {"a": {"b": np.zeros(2, np.float32)}, "c": 1}


class Odd(gym.Env[Any, Any]):
    """Episodes of four steps; in the third step of the second episode `replaced` takes the place of usual values.

    `replaced` holds some of observation, reward, terminated, truncated, info, or a whole result of `step`, `reset` or
    `close`, as a value or as an error to raise; "first" is the second reset's observation.
    """

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space: gym.Space[Any] = BOX, render_mode: str | None = None, **replaced: Any) -> None:
        self.observation_space, self._replaced = space, replaced
        self._episode, self._step = 0, 0

    def _usual(self) -> Any:
        if self.observation_space == DICT:
            return NAMED
        box = self.observation_space
        return np.zeros(box.shape, box.dtype) if isinstance(box, gym.spaces.Box) else 1

    def _now(self, name: str, usual: Any) -> Any:
        value = self._replaced.get(name, usual)
        if isinstance(value, BaseException):
            raise value
        return value

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._episode, self._step = self._episode + 1, 0
        if self._episode == 2:
            return self._now("reset", (self._now("first", self._usual()), {}))
        return self._usual(), {}

    def step(self, action: Any) -> Any:
        self._step += 1
        usual = {"observation": self._usual(), "reward": 1.0, "terminated": self._step == 4, "truncated": False}
        if (self._episode, self._step) == (2, 3):
            return self._now("step", tuple(self._now(key, value) for key, value in {**usual, "info": {}}.items()))
        return (*usual.values(), {})

    def close(self) -> None:
        self._now("close", None)


def sync_vec_env(env: Callable[[], gym.Env[Any, Any]], count: int = 1, **settings: Any) -> SyncVecEnv:
    spaces = simplify_spaces(env().observation_space, env().action_space, "odd")
    return SyncVecEnv(env, spaces, count, autoreset=True, name="odd:Odd-v0", **settings)


def run_two_episodes(env: Any) -> list[Any]:
    """The steps of two episodes in every environment."""
    env.reset(range(env.num_envs))
    return [env.step(np.zeros(env.num_envs, np.int64)) for _ in range(8)]


STEP, RESET = "environment odd:Odd-v0: step 3 of episode 2", "environment odd:Odd-v0: the reset for episode 2"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nan in a first observation": ({"first": np.array([0, np.nan, 0], np.float32)}, f"{RESET}: .* got nan"),
    "minus infinity": ({"observation": np.array([0, 0, -np.inf])}, f"{STEP}: observation: .*, got -inf"),
    "too large for float32": ({"observation": np.array([0, 1e300, 0])}, f"{STEP}: .* float32 numbers, got inf"),
    "none within": ({"observation": np.array([0, None, 0])}, f"{STEP}: observation: .* got array.*Non.*; change"),
    "a dict for a box": ({"observation": {"a": 1}}, f"{STEP}: observation: expected .3. float32, .* got .'a': 1.;"),
    "rows of several lengths": ({"observation": [[1, 2], [3]]}, f"{STEP}: observation: .* got no array of numbers"),
    "turned": ({"space": GRID, "observation": np.zeros((3, 2))}, f"{STEP}: .* expected .2, 3. .* the shape .3, 2."),
    "an array for a dict": ({"space": DICT, "observation": np.zeros(3)}, f"{STEP}: observation: expected a dict"),
    "a key is missing": ({"space": DICT, "observation": {"a": {"b": np.zeros(2)}}}, f"{STEP}: .*but c is missing"),
    "shares for bytes": ({"space": BYTES, "observation": np.array([0, 0.5])}, f"{STEP}: .* 0.5 .float64., .* become 0"),
    "256 for a byte": ({"space": BYTES, "observation": np.array([0, 256])}, f"{STEP}: .* got 256 .int64., which would"),
    "an integer beyond": ({"space": FEW, "observation": np.array([0, 9])}, f"{STEP}: .* got 9, .* not from 0 to 5"),
    "below nought": ({"space": gym.spaces.Discrete(3), "observation": -1}, f"{STEP}: .* -1, which is not from 0 to 2"),
    "a half": ({"space": gym.spaces.Discrete(3), "observation": 1.5}, f"{STEP}: .* got 1.5 .*would become 1"),
    "minus infinity paid": ({"reward": -np.inf}, f"{STEP}: reward: expected a finite float32, got -inf"),
    "a reward too large": ({"reward": 4e38}, f"{STEP}: reward: .*got 4e.38"),
    "a number without end": ({"reward": 10**400}, f"{STEP}: reward: .*got 1000"),
    "an infinite half": ({"reward": np.float16(np.inf)}, f"{STEP}: reward: .*got np.float16.inf."),
    "a complex reward": ({"reward": 1 + 2j}, rf"{STEP}: reward: expected a number, got \(1\+2j\)"),
    "nothing in it": ({"reward": []}, rf"{STEP}: reward: expected a number, got \[\]"),
    "several rewards": ({"reward": {"agent": 1.0}}, f"{STEP}: reward: .*got .'agent': 1.0."),
    "a decimal": ({"reward": Decimal("1.5")}, f"{STEP}: reward: .*got Decimal"),
    "two for a flag": ({"terminated": 2}, f"{STEP}: terminated: expected True or False, got 2"),
    "nan for a flag": ({"truncated": np.nan}, f"{STEP}: truncated: .*got nan"),
    "a word for a flag": ({"terminated": "False"}, f"{STEP}: terminated: .*got 'False'"),
    "a success of several": ({"info": {"success": [True, False]}}, f"{STEP}: info.'success'.: .*got .True, False."),
    "a success of points": ({"info": {"is_success": 17}}, f"{STEP}: info.'is_success'.: .* from 0 to 1, got 17"),
    "a success of nan": ({"info": {"success": np.nan}}, f"{STEP}: info.'success'.: .*got nan"),
    "a list for info": ({"info": ["ok"]}, rf"{STEP}: info: expected a dict, got \['ok'\]"),
    "three from reset": ({"reset": (np.zeros(3), {}, 1)}, f"{RESET}: reset: expected .observation, info.*got .*array"),
    "nothing from reset": ({"reset": None}, f"{RESET}: reset: .*got None"),
    "nothing from step": ({"step": None}, f"{STEP} failed with TypeError: .* step returns .observation, reward"),
    "six from step": ({"step": (np.zeros(3), 1.0, False, False, {}, 0)}, f"{STEP} failed with ValueError: too many"),
    "an error of two lines": ({"step": KeyError("wheel\nlost")}, f"{STEP} failed with KeyError: .*FULL_ERROR=1 shows"),
    "leaves in step": ({"step": SystemExit(3)}, f"{STEP} failed with SystemExit: 3; HYDRA"),
    "leaves in reset": ({"reset": SystemExit()}, f"{RESET} failed with SystemExit; HYDRA"),
    "no memory": ({"step": MemoryError()}, f"{STEP} failed with MemoryError"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_step_with_an_invalid_value_is_refused_with_the_step(name: str) -> None:
    replaced, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as refusal:
        run_two_episodes(sync_vec_env(lambda: Odd(**replaced)))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 350


CONVERTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a reward within lists": ({"reward": [[2.5]]}, {"reward": 2.5}),
    "a tensor": ({"reward": torch.tensor(2.5)}, {"reward": 2.5}),
    "a truth value paid": ({"reward": np.True_}, {"reward": 1.0}),
    "the largest": ({"reward": MAX_REWARD}, {"reward": np.float32(MAX_REWARD)}),
    "flags in arrays": ({"terminated": np.array([True]), "truncated": [0]}, {"terminated": True}),
    "a success in a list": ({"info": {"success": [1.0]}}, {"success": 1.0}),
    "a success that is none": ({"info": {"is_success": None, "success": False}}, {"success": 0.0}),
    "no info": ({"info": None}, {"reward": 1.0}),
    "whole floats": ({"space": BYTES, "observation": np.array([7.0, 255.0])}, {"next_obs": [7, 255]}),
    "a number of one axis": ({"space": gym.spaces.Discrete(3), "observation": np.array([2])}, {"next_obs": 2}),
    "an axis too many": ({"observation": np.ones((1, 3))}, {"next_obs": [1, 1, 1]}),
    "a list": ({"observation": [1, 2, 3]}, {"next_obs": [1, 2, 3]}),
    "twice as exact": ({"observation": np.array([0.1, 0.2, 0.3])}, {"next_obs": np.float32([0.1, 0.2, 0.3])}),
    "beyond float bounds": ({"observation": np.array([6, 0, 0], np.float32)}, {"next_obs": [6, 0, 0]}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERTED)
def test_step_with_a_convertible_value_converts_it(name: str) -> None:
    replaced, expected = CONVERTED[name]
    step = run_two_episodes(sync_vec_env(lambda: Odd(**replaced)))[6]
    for key, value in expected.items():
        column = step.infos["success"] if key == "success" else getattr(step, key)
        np.testing.assert_array_equal(column[0], value)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", ["minus infinity", "minus infinity paid", "an error of two lines"])
def test_gym_vec_env_with_an_invalid_value_is_refused(name: str, mode: AutoresetMode) -> None:
    replaced, words = REFUSED[name]
    spaces = simplify_spaces(Odd().observation_space, Odd().action_space, "odd")
    vector = SyncVectorEnv([lambda: Odd(**replaced)] * 2, autoreset_mode=mode, copy=False)
    with pytest.raises(UserError, match=f"environment odd: .*{words.rpartition(': ')[2] if ' got ' in words else ''}"):
        env = GymVecEnv(vector, spaces, name="odd")
        env.reset([0, 1])
        for _ in range(9):
            env.step(np.zeros(2, np.int64))


def test_step_error_names_step_and_episode_of_the_failing_env() -> None:
    envs = iter([Odd(), Odd(), Odd(), Odd(reward=None)])  # the first two are made for their spaces
    with pytest.raises(UserError, match="step 3 of episode 4: reward: expected a number, got None"):
        run_two_episodes(sync_vec_env(lambda: next(envs), 2))


# Episodes


class Endless(gym.Env[Any, Any]):
    observation_space, action_space = BOX, gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None: ...

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(3, np.float32), 1.0, False, False, {}


gym.register("Endless-v0", Endless)


def test_step_endless_episode_is_refused_after_endless_after_steps() -> None:
    env = Gym("Endless-v0", endless_after=30).make(2, training=False)
    env.reset([0, 1])
    for _ in range(29):
        env.step(np.zeros(2, np.int64))
    env.reset([0, 1])
    with pytest.raises(
        UserError, match="Endless-v0: episode 3 has not ended after 30 steps; set env.max_episode_steps"
    ):
        for _ in range(30):
            env.step(np.zeros(2, np.int64))


def test_step_with_a_time_limit_or_in_training_is_not_endless() -> None:
    for env in (Gym("Endless-v0", max_episode_steps=60, endless_after=30).make(1, False),
                Gym("Endless-v0", endless_after=30).make(1, True)):  # fmt: skip
        env.reset([0])
        assert sum(len(env.step(np.zeros(1, np.int64)).finished) for _ in range(59)) == 0


def test_fingerprint_leaves_out_endless_after() -> None:
    assert Gym("CartPole-v1", endless_after=5).fingerprint() == Gym("CartPole-v1").fingerprint()
    assert "endless_after" not in Gym("CartPole-v1").fingerprint()
    with pytest.raises(UserError, match="env.endless_after: expected 1 step or more, got 0"):
        Gym("CartPole-v1", endless_after=0)


# Making, seeding, closing, drawing


class OnlyOne(Endless):
    """Only one may be open at a time."""

    opened = 0

    def __init__(self, render_mode: str | None = None) -> None:
        if OnlyOne.opened:
            raise OSError(98, "port 3001 is taken")
        OnlyOne.opened += 1

    def close(self) -> None:
        OnlyOne.opened -= 1


class UnseededEnv(Endless):
    """Ignores seeds: draws from numpy's global generator."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.random.uniform(-1, 1, 3).astype(np.float32), {}


class Raises(Endless):
    def __init__(self, render_mode: str | None = None, where: str = "") -> None:
        self.where, self.render_mode = where, render_mode
        if where == "constructor":
            raise SystemExit("no licence")

    def render(self) -> Any:
        if self.where == "grey":
            return np.zeros((8, 8))
        raise SystemExit("no screen")

    def close(self) -> None:
        if self.where == "close":
            raise RuntimeError("still busy")


for kind in (OnlyOne, UnseededEnv, Raises):
    gym.register(f"{kind.__name__}-v0", kind)


def test_make_when_only_one_env_may_be_open_names_the_keys() -> None:
    env = Gym("OnlyOne-v0")
    with pytest.raises(
        UserError, match="port 3001 is taken; .*only 1 can be open at a time, lower .*num_envs .*score.num_envs"
    ):
        env.make(2, training=False)
    assert OnlyOne.opened == 0
    first = env.make(1, training=True)
    with pytest.raises(UserError, match="port 3001 is taken; .*only one can be open .*learn.eval.every=0"):
        env.make(1, training=False)
    first.close()


def test_spaces_of_an_env_that_ignores_seeds_warn_once(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(progress, "_printed", set())
    for _ in range(2):
        Gym("UnseededEnv-v0").spaces()
    Gym("Endless-v0").spaces()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "environment UnseededEnv-v0: two resets with the same seed" in lines[0]


def test_observation_out_of_bounds_or_with_extra_keys_warns_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(progress, "_printed", set())
    for _ in range(2):
        run_two_episodes(sync_vec_env(lambda: Odd(first=np.array([7, 0, 0], np.float32))))
        run_two_episodes(sync_vec_env(lambda: Odd(DICT, observation={**NAMED, "z": 1})))
        run_two_episodes(sync_vec_env(lambda: Odd(first=np.array([5.05, 0, 0], np.float32))))  # within the tolerance
    assert capsys.readouterr().err.splitlines() == [
        "environment odd:Odd-v0: observation holds 7, outside its space's bounds; it is kept",
        "environment odd:Odd-v0: observation keys that its space does not have are ignored: z",
    ]


def test_env_failing_in_constructor_close_or_render_is_refused() -> None:
    with pytest.raises(UserError, match="Raises-v0 cannot be made: SystemExit: no licence; see env.id and env.kwargs"):
        Gym("Raises-v0", {"where": "constructor"}).spaces()
    with pytest.raises(UserError, match="environment Raises-v0: close failed with RuntimeError: still busy; HYDRA"):
        Gym("Raises-v0", {"where": "close"}).spaces()
    for where, words in (
        ("", "render failed with SystemExit: no screen; "),
        ("grey", "render: expected .height, width, 3. uint8, got .8, 8. float64; "),
    ):
        env = Gym("Raises-v0", {"where": where}).make(1, training=False, render=True)
        env.reset([0])
        with pytest.raises(UserError, match=f"environment Raises-v0: {words}.*set film=false"):
            env.render()


def test_env_without_spaces_is_refused() -> None:
    class Bare(gym.Env[Any, Any]):
        pass

    gym.register("Bare-v0", lambda render_mode=None: Bare())
    with pytest.raises(UserError, match="environment Bare-v0 cannot be made: AttributeError: .*observation_space"):
        Gym("Bare-v0").spaces()


def test_close_error_does_not_hide_an_earlier_error() -> None:
    env = sync_vec_env(lambda: Odd(close=RuntimeError("still busy")))
    with pytest.raises(Interrupted, match="stopped"):
        try:
            raise Interrupted("stopped")
        finally:
            env.close()
    with pytest.raises(UserError, match="close failed with RuntimeError: still busy"):
        env.close()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (("observation", gym.spaces.Box(0, 1, (0,))), "odd: the observation: expected one number or more, got Box"),
        (("action", gym.spaces.Box(0, 0, (1,))), "odd: the actions: expected one number or more, .*got Box"),
        (("action", gym.spaces.Box(-1, 1, (0,))), "odd: the actions: expected one number or more, .*got Box"),
    ],
)
def test_simplify_spaces_empty_or_fixed_space_is_refused(space: tuple[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        simplify_spaces(**{"observation": BOX, "action": gym.spaces.Discrete(2), "name": "odd"} | dict([space]))


def test_collect_with_an_invalid_reward_stores_nothing(run_stages: Any, tmp_path: Any) -> None:
    gym.register("Bad-v0", lambda render_mode=None: Odd(reward=float("nan")))
    with pytest.raises(UserError, match="environment Bad-v0: step 3 of episode .*: reward: .*got nan"):
        run_stages({"demos": Collect("random", transitions=50, num_envs=2)}, Gym("Bad-v0"))
    assert not list((tmp_path / "store").glob("collect-*"))
