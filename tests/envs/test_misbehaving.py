"""Environments that misbehave end in one line that names the environment, the step and the thing, or do no harm."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lfd.envs import Gym
from lfd.envs.checked import LARGEST
from lfd.envs.spaces import simplified
from lfd.envs.sync import Sync
from lfd.envs.vectorised import Vectorised
from lfd.errors import Interrupted, Refused
from lfd.log import progress
from lfd.stages.collect import Collect

BOX = gym.spaces.Box(-5, 5, (3,), np.float32)
BYTES = gym.spaces.Box(0, 255, (2,), np.uint8)
FEW = gym.spaces.Box(0, 5, (2,), np.int64)
GRID = gym.spaces.Box(-1, 1, (2, 3), np.float32)
DICT = gym.spaces.Dict(a=gym.spaces.Dict(b=gym.spaces.Box(-1, 1, (2,), np.float32)), c=gym.spaces.Discrete(3))
NAMED = {"a": {"b": np.zeros(2, np.float32)}, "c": 1}


class Odd(gym.Env[Any, Any]):
    """Four steps an episode; in the third of the second one `given` takes the place of what it says otherwise.

    `given` holds some of observation, reward, terminated, truncated, info; or an answer of `step`, `reset` or `close`,
    as a value or as something to raise; "first" is an observation of that reset.
    """

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space: gym.Space[Any] = BOX, render_mode: str | None = None, **given: Any) -> None:
        self.observation_space, self._given = space, given
        self._episode, self._step = 0, 0

    def _usual(self) -> Any:
        if self.observation_space == DICT:
            return NAMED
        box = self.observation_space
        return np.zeros(box.shape, box.dtype) if isinstance(box, gym.spaces.Box) else 1

    def _now(self, name: str, usual: Any) -> Any:
        value = self._given.get(name, usual)
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


def looped(env: Callable[[], gym.Env[Any, Any]], count: int = 1, **settings: Any) -> Sync:
    spaces = simplified(env().observation_space, env().action_space, "odd")
    return Sync(env, spaces, count, autoreset=True, name="odd:Odd-v0", **settings)


def played(env: Any) -> list[Any]:
    """The steps of two episodes in every environment."""
    env.reset(range(env.num_envs))
    return [env.step(np.zeros(env.num_envs, np.int64)) for _ in range(8)]


STEP, RESET = "environment odd:Odd-v0: step 3 of episode 2", "environment odd:Odd-v0: the reset for episode 2"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nan in a first observation": ({"first": np.array([0, np.nan, 0], np.float32)}, f"{RESET}: .* holds nan"),
    "minus infinity": ({"observation": np.array([0, 0, -np.inf])}, f"{STEP}: the observation holds -inf"),
    "too large for float32": ({"observation": np.array([0, 1e300, 0])}, f"{STEP}: .* holds inf, .* float32"),
    "none within": ({"observation": np.array([0, None, 0])}, f"{STEP}: the observation is array.*Non.*; its space"),
    "a dict for a box": ({"observation": {"a": 1}}, f"{STEP}: the observation is .'a': 1.; its space says .3. float32"),
    "rows of several lengths": ({"observation": [[1, 2], [3]]}, f"{STEP}: the observation is no array of numbers"),
    "turned": ({"space": GRID, "observation": np.zeros((3, 2))}, f"{STEP}: .* the shape .3, 2.; its space says .2, 3."),
    "an array for a dict": ({"space": DICT, "observation": np.zeros(3)}, f"{STEP}: .*; its space is a Dict"),
    "a key is missing": ({"space": DICT, "observation": {"a": {"b": np.zeros(2)}}}, f"{STEP}: .* lacks c"),
    "shares for bytes": ({"space": BYTES, "observation": np.array([0, 0.5])}, f"{STEP}: .* 0.5 .float64., .* 0 would"),
    "256 for a byte": ({"space": BYTES, "observation": np.array([0, 256])}, f"{STEP}: .* holds 256 .int64., of which"),
    "an integer beyond": ({"space": FEW, "observation": np.array([0, 9])}, f"{STEP}: .* holds 9, .* not from 0 to 5"),
    "below nought": ({"space": gym.spaces.Discrete(3), "observation": -1}, f"{STEP}: .* -1, which is not from 0 to 2"),
    "a half": ({"space": gym.spaces.Discrete(3), "observation": 1.5}, f"{STEP}: .* holds 1.5 .*1 would be kept"),
    "minus infinity paid": ({"reward": -np.inf}, f"{STEP}: the reward is -inf, which is no finite number of float32"),
    "a reward too large": ({"reward": 4e38}, f"{STEP}: the reward is 4e.38"),
    "a number without end": ({"reward": 10**400}, f"{STEP}: the reward is 1000"),
    "an infinite half": ({"reward": np.float16(np.inf)}, f"{STEP}: the reward is np.float16.inf."),
    "a complex reward": ({"reward": 1 + 2j}, rf"{STEP}: the reward is \(1\+2j\); a number is expected"),
    "nothing in it": ({"reward": []}, rf"{STEP}: the reward is \[\]"),
    "several rewards": ({"reward": {"agent": 1.0}}, f"{STEP}: the reward is .'agent': 1.0."),
    "a decimal": ({"reward": Decimal("1.5")}, f"{STEP}: the reward is Decimal"),
    "two for a flag": ({"terminated": 2}, f"{STEP}: terminated is 2; True or False is expected"),
    "nan for a flag": ({"truncated": np.nan}, f"{STEP}: truncated is nan"),
    "a word for a flag": ({"terminated": "False"}, f"{STEP}: terminated is 'False'"),
    "a success of several": ({"info": {"success": [True, False]}}, f"{STEP}: the info 'success' is .True, False."),
    "a success of points": ({"info": {"is_success": 17}}, f"{STEP}: the info 'is_success' is 17; .* from 0 to 1"),
    "a success of nan": ({"info": {"success": np.nan}}, f"{STEP}: the info 'success' is nan"),
    "a list for info": ({"info": ["ok"]}, rf"{STEP}: the info is \['ok'\]; a dict is expected"),
    "three from reset": ({"reset": (np.zeros(3), {}, 1)}, f"{RESET}: reset gives .*array.*; .observation, info. is"),
    "nothing from reset": ({"reset": None}, f"{RESET}: reset gives None"),
    "nothing from step": ({"step": None}, f"{STEP} failed with TypeError: .* step gives .observation, reward"),
    "six from step": ({"step": (np.zeros(3), 1.0, False, False, {}, 0)}, f"{STEP} failed with ValueError: too many"),
    "an error of two lines": ({"step": KeyError("wheel\nlost")}, f"{STEP} failed with KeyError: .*FULL_ERROR=1 shows"),
    "leaves in step": ({"step": SystemExit(3)}, f"{STEP} failed with SystemExit: 3; HYDRA"),
    "leaves in reset": ({"reset": SystemExit()}, f"{RESET} failed with SystemExit; HYDRA"),
    "no memory": ({"step": MemoryError()}, f"{STEP} failed with MemoryError"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_in_the_step_where_it_comes(name: str) -> None:
    given, words = REFUSED[name]
    with pytest.raises(Refused, match=words) as refusal:
        played(looped(lambda: Odd(**given)))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 350


TAKEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a reward within lists": ({"reward": [[2.5]]}, {"reward": 2.5}),
    "a tensor": ({"reward": torch.tensor(2.5)}, {"reward": 2.5}),
    "a truth value paid": ({"reward": np.True_}, {"reward": 1.0}),
    "the largest": ({"reward": LARGEST}, {"reward": np.float32(LARGEST)}),
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


@pytest.mark.parametrize("name", TAKEN)
def test_what_can_be_kept_is(name: str) -> None:
    given, wanted = TAKEN[name]
    step = played(looped(lambda: Odd(**given)))[6]
    for key, value in wanted.items():
        found = step.infos["success"] if key == "success" else getattr(step, key)
        np.testing.assert_array_equal(found[0], value)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", ["minus infinity", "minus infinity paid", "an error of two lines"])
def test_vector_environments_are_looked_at_too(name: str, mode: AutoresetMode) -> None:
    given, words = REFUSED[name]
    spaces = simplified(Odd().observation_space, Odd().action_space, "odd")
    vector = SyncVectorEnv([lambda: Odd(**given)] * 2, autoreset_mode=mode, copy=False)
    with pytest.raises(Refused, match=f"environment odd: .*{words.rpartition(': ')[2] if 'holds' in words else ''}"):
        env = Vectorised(vector, spaces, name="odd")
        env.reset([0, 1])
        for _ in range(9):
            env.step(np.zeros(2, np.int64))


def test_the_step_and_the_episode_are_those_of_the_one_that_fails() -> None:
    made = iter([Odd(), Odd(), Odd(), Odd(reward=None)])  # the first two only tell their spaces
    with pytest.raises(Refused, match="step 3 of episode 4: the reward is None"):
        played(looped(lambda: next(made), 2))


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


def test_an_episode_that_never_ends_is_refused_after_a_number_of_steps() -> None:
    env = Gym("Endless-v0", endless_after=30).make(2, training=False)
    env.reset([0, 1])
    for _ in range(29):
        env.step(np.zeros(2, np.int64))
    env.reset([0, 1])
    with pytest.raises(Refused, match="Endless-v0: episode 3 has not ended after 30 steps; set env.max_episode_steps"):
        for _ in range(30):
            env.step(np.zeros(2, np.int64))


def test_what_has_a_time_limit_or_trains_may_go_on() -> None:
    for env in (Gym("Endless-v0", max_episode_steps=60, endless_after=30).make(1, False),
                Gym("Endless-v0", endless_after=30).make(1, True)):  # fmt: skip
        env.reset([0])
        assert sum(len(env.step(np.zeros(1, np.int64)).finished) for _ in range(59)) == 0


def test_endless_after_is_in_no_key() -> None:
    assert Gym("CartPole-v1", endless_after=5).fingerprint() == Gym("CartPole-v1").fingerprint()
    assert "endless_after" not in Gym("CartPole-v1").fingerprint()
    with pytest.raises(Refused, match="env.endless_after is 0: expected 1 step or more"):
        Gym("CartPole-v1", endless_after=0)


# Making, seeding, closing, drawing


class Only(Endless):
    """Of which one may be open."""

    opened = 0

    def __init__(self, render_mode: str | None = None) -> None:
        if Only.opened:
            raise OSError(98, "port 3001 is taken")
        Only.opened += 1

    def close(self) -> None:
        Only.opened -= 1


class Loose(Endless):
    """Draws from numpy's global generator, in every way."""

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


for kind in (Only, Loose, Raises):
    gym.register(f"{kind.__name__}-v0", kind)


def test_where_one_may_be_open_the_key_that_helps_is_named() -> None:
    env = Gym("Only-v0")
    with pytest.raises(
        Refused, match="port 3001 is taken; .*only 1 can be open at a time, set num_envs .*score.num_envs"
    ):
        env.make(2, training=False)
    assert Only.opened == 0
    first = env.make(1, training=True)
    with pytest.raises(Refused, match="port 3001 is taken; .*only one can be open .*learn.check.every=0"):
        env.make(1, training=False)
    first.close()


def test_seeds_that_are_not_heeded_are_told_once(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(progress, "_told", set())
    for _ in range(2):
        Gym("Loose-v0").spaces()
    Gym("Endless-v0").spaces()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "environment Loose-v0: after two resets with the same seed" in told[0]


def test_floats_far_beyond_their_bounds_and_strange_keys_are_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(progress, "_told", set())
    for _ in range(2):
        played(looped(lambda: Odd(first=np.array([7, 0, 0], np.float32))))
        played(looped(lambda: Odd(DICT, observation={**NAMED, "z": 1})))
        played(looped(lambda: Odd(first=np.array([5.05, 0, 0], np.float32))))  # rounding, or the like
    assert capsys.readouterr().err.splitlines() == [
        "environment odd:Odd-v0: the observation holds 7, beyond the bounds of its space; kept as it is",
        "environment odd:Odd-v0: its observations have z, which its space has not: left out",
    ]


def test_a_failing_constructor_close_or_picture_is_theirs() -> None:
    with pytest.raises(Refused, match="Raises-v0 cannot be made: SystemExit: no licence; see env.id and env.kwargs"):
        Gym("Raises-v0", {"where": "constructor"}).spaces()
    with pytest.raises(Refused, match="environment Raises-v0: close failed with RuntimeError: still busy; HYDRA"):
        Gym("Raises-v0", {"where": "close"}).spaces()
    for where, words in (("", "render failed with SystemExit: no screen; "), ("grey", "render gives .8, 8. float64; ")):
        env = Gym("Raises-v0", {"where": where}).make(1, training=False, render=True)
        env.reset([0])
        with pytest.raises(Refused, match=f"environment Raises-v0: {words}.*leave films out"):
            env.render()


def test_an_environment_without_spaces_is_refused() -> None:
    class Bare(gym.Env[Any, Any]):
        pass

    gym.register("Bare-v0", lambda render_mode=None: Bare())
    with pytest.raises(Refused, match="environment Bare-v0 cannot be made: AttributeError: .*observation_space"):
        Gym("Bare-v0").spaces()


def test_what_ended_the_work_is_told_rather_than_a_close_that_fails() -> None:
    env = looped(lambda: Odd(close=RuntimeError("still busy")))
    with pytest.raises(Interrupted, match="stopped"):
        try:
            raise Interrupted("stopped")
        finally:
            env.close()
    with pytest.raises(Refused, match="close failed with RuntimeError: still busy"):
        env.close()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (("observation", gym.spaces.Box(0, 1, (0,))), "odd: the observation is Box.*, which holds no number"),
        (("action", gym.spaces.Box(0, 0, (1,))), "odd: its actions are Box.*, which leaves nothing to choose"),
        (("action", gym.spaces.Box(-1, 1, (0,))), "odd: its actions are Box.*, which leaves nothing to choose"),
    ],
)
def test_spaces_in_which_nothing_can_be_seen_or_done_are_refused(space: tuple[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        simplified(**{"observation": BOX, "action": gym.spaces.Discrete(2), "name": "odd"} | dict([space]))


def test_nothing_bad_is_stored(run_stages: Any, tmp_path: Any) -> None:
    gym.register("Bad-v0", lambda render_mode=None: Odd(reward=float("nan")))
    with pytest.raises(Refused, match="environment Bad-v0: step 3 of episode .*: the reward is nan"):
        run_stages({"demos": Collect("random", transitions=50, num_envs=2)}, Gym("Bad-v0"))
    assert not list((tmp_path / "store").glob("collect-*"))
