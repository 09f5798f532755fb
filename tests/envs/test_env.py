"""The environments that are promised: made, seeded, described, refused."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf

from lfd.envs import Atari, Env, Gym, MiniGrid, VecEnv
from lfd.errors import Refused

CONF = Path(__file__).parents[2] / "conf" / "env"
KINDS: dict[str, type[Env]] = {"gym_schema": Gym, "atari_schema": Atari, "minigrid_schema": MiniGrid}


def preset(name: str) -> tuple[Env, str]:
    """The environment of a preset, and the kind of actions it promises."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    schema, actions, *_ = content.pop("defaults")
    return KINDS[schema](**content), actions["override /actions@_global_.actions"]


NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "none")
CONCRETE = [name for name in NAMES if preset(name)[0].id != "???"]


def test_all_promised_presets_are_there() -> None:
    promised = (
        "cartpole acrobot pendulum mountaincar lunarlander lunarlander_continuous hopper walker2d halfcheetah ant"
    )
    promised += " reacher pong breakout minigrid_empty minigrid_doorkey babyai_gotolocal gym atari minigrid"
    assert set(promised.split()) <= set(NAMES)


@pytest.mark.parametrize("name", CONCRETE)
def test_presets_make_what_they_promise(name: str) -> None:
    env, actions = preset(name)
    spaces = env.spaces()
    assert spaces.actions == actions
    made = env.make(2, training=False)
    rng = np.random.default_rng(0)
    seen = [made.reset([1, 2])]
    for _ in range(3):
        seen.append(made.step(random_actions(rng, made)).obs)
    made.close()
    for obs in seen:
        for index in range(2):
            row = {key: column[index] for key, column in obs.items()} if isinstance(obs, dict) else obs[index]
            assert spaces.observation.contains(row), row


def random_actions(rng: np.random.Generator, env: VecEnv) -> Any:
    space = env.spaces.action
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(0, space.n, env.num_envs)
    assert isinstance(space, gym.spaces.Box)
    return rng.uniform(space.low, space.high, (env.num_envs, *space.shape)).astype(np.float32)


def trace(env: VecEnv, steps: int) -> list[Any]:
    """What equal seeds and actions must repeat to the bit."""
    rng = np.random.default_rng(7)
    seen = [env.reset([3, 4])]
    for _ in range(steps):
        step = env.step(random_actions(rng, env))
        seen += [step.obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid]
    return [one.tobytes() if isinstance(one, np.ndarray) else {k: v.tobytes() for k, v in one.items()} for one in seen]


@pytest.mark.parametrize("name", ["cartpole", "lunarlander", "hopper", "ant", "breakout", "babyai_gotolocal"])
def test_equal_seeds_give_equal_bits_whatever_was_played_before(name: str) -> None:
    env, _ = preset(name)
    fresh, used = env.make(2, training=True), env.make(2, training=True)
    used.reset([8, 9])
    rng = np.random.default_rng(0)
    for _ in range(70):
        used.step(random_actions(rng, used))
    assert trace(fresh, 70) == trace(used, 70)
    fresh.close()
    used.close()


def test_seeds_differ() -> None:
    env = Gym("CartPole-v1").make(2, training=True)
    first = env.reset([1, 2])
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[::-1], env.reset([2, 1]))


def test_max_episode_steps() -> None:
    env = Gym("Pendulum-v1", max_episode_steps=5).make(1, training=True)
    env.reset([0])
    ends = [bool(env.step(np.zeros((1, 1), np.float32)).truncated[0]) for _ in range(10)]
    assert [i for i, end in enumerate(ends) if end] == [4, 9]


def test_fingerprint_tells_settings_and_versions() -> None:
    hopper = Gym("Hopper-v5", {"frame_skip": 4})
    assert hopper.fingerprint()["versions"].keys() == {"gymnasium", "mujoco"}
    assert hopper.fingerprint() != Gym("Hopper-v5").fingerprint()
    assert Gym("LunarLander-v3").fingerprint()["versions"].keys() == {"gymnasium", "box2d"}
    assert Atari("ALE/Pong-v5").fingerprint()["versions"].keys() == {"gymnasium", "ale-py"}
    assert MiniGrid("BabyAI-GoToObj-v0").fingerprint()["versions"].keys() == {"gymnasium", "minigrid"}
    assert Atari("ALE/Pong-v5").fingerprint() != Atari("ALE/Pong-v5", life_loss=False).fingerprint()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gym("CartPoel-v1"), "did you mean 'CartPole-v1'"),
        (lambda: Gym("CartPole-v7"), "did you mean 'CartPole-v1'"),
        (lambda: Gym("LunarLander-v2"), "LunarLander-v3"),
        (lambda: Gym("not an id"), "env.id"),
        (lambda: Gym("nowhere:Foo-v0"), "nowhere"),
        (lambda: Gym("CartPole-v1", {"gravity": 3}), "unexpected keyword argument 'gravity'"),
        (lambda: Gym("Hopper-v5", {"xml_file": "nope.xml"}), "nope.xml does not exist"),
        (lambda: Gym("Blackjack-v1"), "Tuple"),
        (lambda: Gym("CartPole-v1", max_episode_steps=-1), "max_episode_steps"),
        (lambda: Atari("CartPole-v1"), "ALE/<Game>-v5"),
        (lambda: Atari("ALE/Pnog-v5"), "did you mean 'ALE/Pong-v5'"),
        (lambda: Atari("ALE/Pong-v5", {"frameskip": 2}), "full_action_space"),
        (lambda: Atari("ALE/Pong-v5", repeat_action_probability=1.0), "repeat_action_probability"),
        (lambda: Atari("ALE/Pong-v5", max_frames=0), "max_frames"),
        (lambda: MiniGrid("CartPole-v1"), "no level"),
        (lambda: MiniGrid("BabyAI-GoToObj-v0", mission_length=0), "mission_length"),
        (lambda: MiniGrid("BabyAI-GoToObj-v0", max_episode_steps=-1), "max_episode_steps"),
    ],
)
def test_refused_in_one_line(make: Any, words: str) -> None:
    with pytest.raises(Refused, match=re.escape(words)) as refusal:
        make().spaces()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("env", "module", "extra"),
    [
        (Gym("Hopper-v5"), "mujoco", "mujoco"),
        (Gym("LunarLander-v3"), "Box2D", "box2d"),
        (Atari("ALE/Pong-v5"), "ale_py", "atari"),
        (Atari("ALE/Pong-v5"), "cv2", "atari"),
        (MiniGrid("BabyAI-GoToObj-v0"), "minigrid", "minigrid"),
    ],
)
def test_a_missing_extra_is_named_with_its_install_line(env: Env, module: str, extra: str) -> None:
    # in a process of its own, because a module that was imported once cannot be missing
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from lfd.envs import Atari, Gym, MiniGrid\nfrom lfd.errors import Refused\n"
        f"try: {type(env).__name__}({env.id!r}).spaces()\nexcept Refused as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(env.id) and done.stdout.strip().endswith(f'pip install -e ".[{extra}]"')


def test_ids_of_other_kinds_point_to_their_preset() -> None:
    code = (
        "from lfd.envs import Gym\nfrom lfd.errors import Refused\n"
        "for id in ('ALE/Pong-v5', 'BabyAI-GoToObj-v0'):\n"
        "  try: Gym(id).spaces()\n  except Refused as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "env=atari env.id=ALE/Pong-v5" in done.stdout and "env=minigrid env.id=BabyAI" in done.stdout


def test_importing_the_room_imports_no_simulator() -> None:
    code = (
        "import sys, lfd.envs; print([m for m in ('mujoco', 'Box2D', 'ale_py', 'minigrid', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["cartpole", "pong", "babyai_gotolocal"])
def test_pictures(name: str) -> None:
    env = preset(name)[0].make(2, training=False, render=True)
    env.reset([1, 2])
    for frame in env.render():
        assert frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8 and frame.std() > 0
    env.close()


def test_a_library_that_draws_without_a_screen_does_not_complain() -> None:
    # in a process of its own: SDL, in C, speaks once and past sys.stderr
    code = (
        "from lfd.envs import Gym\nenv = Gym('CartPole-v1').make(1, training=False, render=True)\n"
        "env.reset([1])\nenv.render()"
    )
    bare = {
        key: value for key, value in os.environ.items() if not key.startswith(("SDL_", "XDG_", "DISPLAY", "WAYLAND"))
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_old_version_is_made_or_refused_without_a_warning() -> None:
    gym.register("Aged-v0", "gymnasium.envs.classic_control:CartPoleEnv")
    gym.register("Aged-v1", "gymnasium.envs.classic_control:CartPoleEnv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Gym("Aged-v0").spaces()
        with pytest.raises(Refused, match="Please use `Taxi-v4`"):
            Gym("Taxi-v3").spaces()


def test_no_pictures_is_refused() -> None:
    env = Gym("CartPole-v1").make(1, training=False)
    env.reset([1])
    with pytest.warns(UserWarning, match="render"), pytest.raises(Refused, match="no pictures"):
        env.render()
