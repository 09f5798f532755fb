"""Environments of conf/env: they can be made, repeat with equal seeds, and refuse wrong settings in one line."""

import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf

from lfd.envs import Atari, Env, Gym, MiniGrid, VecEnv
from lfd.errors import UserError

CONF = Path(__file__).parents[2] / "conf" / "env"
KINDS: dict[str, type[Env]] = {"gym_schema": Gym, "atari_schema": Atari, "minigrid_schema": MiniGrid}


def preset(name: str) -> tuple[Env, str]:
    """The environment of a preset and its kind of actions."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    schema, actions, *_ = content.pop("defaults")
    return KINDS[schema](**content), actions["override /actions@_global_.actions"]


NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "none")
CONCRETE = [name for name in NAMES if preset(name)[0].id != "???"]


def test_presets_include_all_documented_environments() -> None:
    documented = (
        "cartpole acrobot pendulum mountaincar lunarlander lunarlander_continuous hopper walker2d halfcheetah ant"
    )
    documented += " reacher pong breakout minigrid_empty minigrid_doorkey babyai_gotolocal gym atari minigrid"
    assert set(documented.split()) <= set(NAMES)


@pytest.mark.parametrize("name", CONCRETE)
def test_preset_observations_lie_in_its_spaces(name: str) -> None:
    env, actions = preset(name)
    spaces = env.spaces()
    assert spaces.actions == actions
    vec_env = env.make(2, training=False)
    rng = np.random.default_rng(0)
    observations = [vec_env.reset([1, 2])]
    for _ in range(3):
        observations.append(vec_env.step(random_actions(rng, vec_env)).obs)
    vec_env.close()
    for obs in observations:
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
    """All results of resetting and stepping with fixed seeds and actions, as bytes."""
    rng = np.random.default_rng(7)
    results = [env.reset([3, 4])]
    for _ in range(steps):
        step = env.step(random_actions(rng, env))
        results += [step.obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid]
    return [item.tobytes() if isinstance(item, np.ndarray) else {k: v.tobytes() for k, v in item.items()}
            for item in results]  # fmt: skip


@pytest.mark.parametrize("name", ["cartpole", "lunarlander", "hopper", "ant", "breakout", "babyai_gotolocal"])
def test_vec_env_equal_seeds_give_equal_bits_after_other_episodes(name: str) -> None:
    env, _ = preset(name)
    fresh, used = env.make(2, training=True), env.make(2, training=True)
    used.reset([8, 9])
    rng = np.random.default_rng(0)
    for _ in range(70):
        used.step(random_actions(rng, used))
    assert trace(fresh, 70) == trace(used, 70)
    fresh.close()
    used.close()


def test_vec_env_seeds_decide_the_first_observations() -> None:
    env = Gym("CartPole-v1").make(2, training=True)
    first = env.reset([1, 2])
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[::-1], env.reset([2, 1]))


def test_max_episode_steps_truncates_episodes() -> None:
    env = Gym("Pendulum-v1", max_episode_steps=5).make(1, training=True)
    env.reset([0])
    ends = [bool(env.step(np.zeros((1, 1), np.float32)).truncated[0]) for _ in range(10)]
    assert [i for i, end in enumerate(ends) if end] == [4, 9]


def test_fingerprint_contains_settings_and_package_versions() -> None:
    hopper = Gym("Hopper-v5", {"frame_skip": 4})
    assert hopper.fingerprint()["versions"].keys() == {"gymnasium", "mujoco"}
    assert hopper.fingerprint() != Gym("Hopper-v5").fingerprint()
    assert Gym("LunarLander-v3").fingerprint()["versions"].keys() == {"gymnasium", "box2d"}
    assert Atari("ALE/Pong-v5").fingerprint()["versions"].keys() == {"gymnasium", "ale-py"}
    assert MiniGrid("BabyAI-GoToObj-v0").fingerprint()["versions"].keys() == {"gymnasium", "minigrid"}
    assert Atari("ALE/Pong-v5").fingerprint() != Atari("ALE/Pong-v5", terminal_on_life_loss=False).fingerprint()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gym("CartPoel-v1"), "did you mean 'CartPole-v1'"),
        (lambda: Gym("CartPole-v7"), "did you mean 'CartPole-v1'"),
        (lambda: Gym("LunarLander-v2"), "LunarLander-v3"),
        (lambda: Gym("not an id"), "not an id"),
        (lambda: Gym("nowhere:Foo-v0"), "nowhere"),
        (lambda: Gym("CartPole-v1", {"gravity": 3}), "unexpected keyword argument 'gravity'"),
        (lambda: Gym("Hopper-v5", {"xml_file": "nope.xml"}), "nope.xml does not exist"),
        (lambda: Gym("CartPole-v1", max_episode_steps=-1), "max_episode_steps"),
        (lambda: Atari("CartPole-v1"), "ALE/<Game>-v5"),
        (lambda: Atari("ALE/Pnog-v5"), "did you mean 'ALE/Pong-v5'"),
        (lambda: Atari("ALE/Pong-v5", {"frameskip": 2}), "full_action_space"),
        (lambda: Atari("ALE/Pong-v5", repeat_action_probability=1.0), "repeat_action_probability"),
        (lambda: Atari("ALE/Pong-v5", max_frames=0), "max_frames"),
        (lambda: MiniGrid("CartPole-v1"), "env.id: expected MiniGrid-… or BabyAI-…"),
        (lambda: MiniGrid("BabyAI-GoToObj-v0", mission_length=0), "mission_length"),
        (lambda: MiniGrid("BabyAI-GoToObj-v0", max_episode_steps=-1), "max_episode_steps"),
    ],
)
def test_env_with_wrong_settings_is_refused_in_one_line(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as refusal:
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
def test_env_without_its_extra_is_refused_with_the_install_command(env: Env, module: str, extra: str) -> None:
    # in a new process, because an imported module cannot be missing
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from lfd.envs import Atari, Gym, MiniGrid\nfrom lfd.errors import UserError\n"
        f"try: {type(env).__name__}({env.id!r}).spaces()\nexcept UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(env.id) and done.stdout.strip().endswith(f'pip install -e ".[{extra}]"')


def test_gym_with_an_atari_or_babyai_id_names_the_preset() -> None:
    code = (
        "from lfd.envs import Gym\nfrom lfd.errors import UserError\n"
        "for id in ('ALE/Pong-v5', 'BabyAI-GoToObj-v0'):\n"
        "  try: Gym(id).spaces()\n  except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "env=atari env.id=ALE/Pong-v5" in done.stdout and "env=minigrid env.id=BabyAI" in done.stdout


def test_import_of_envs_imports_no_simulator() -> None:
    code = (
        "import sys, lfd.envs; print([m for m in ('mujoco', 'Box2D', 'ale_py', 'minigrid', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["cartpole", "pong", "babyai_gotolocal"])
def test_render_returns_images(name: str) -> None:
    env = preset(name)[0].make(2, training=False, render=True)
    env.reset([1, 2])
    for frame in env.render():
        assert frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8 and frame.std() > 0
    env.close()


def test_render_without_a_screen_prints_nothing() -> None:
    # in a new process: SDL prints once, from C, past sys.stderr
    code = (
        "from lfd.envs import Gym\nenv = Gym('CartPole-v1').make(1, training=False, render=True)\n"
        "env.reset([1])\nenv.render()"
    )
    bare = {
        key: value for key, value in os.environ.items() if not key.startswith(("SDL_", "XDG_", "DISPLAY", "WAYLAND"))
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare)
    assert (done.stdout, done.stderr) == ("", "")


def test_env_of_an_old_version_is_made_or_refused_without_a_warning() -> None:
    gym.register("Aged-v0", "gymnasium.envs.classic_control:CartPoleEnv")
    gym.register("Aged-v1", "gymnasium.envs.classic_control:CartPoleEnv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Gym("Aged-v0").spaces()
        with pytest.raises(UserError, match="Please use `Taxi-v4`"):
            Gym("Taxi-v3").spaces()


def test_render_without_render_mode_is_refused() -> None:
    env = Gym("CartPole-v1").make(1, training=False)
    env.reset([1])
    with pytest.warns(UserWarning, match="render"), pytest.raises(UserError, match="render: expected images, got none"):
        env.render()


@dataclass
class Own(Env):
    """An environment family of another package, which Gymnasium does not know."""

    id: str = "own"

    def make_single(self, render: bool = False) -> gym.Env[Any, Any]:
        return gym.make("CartPole-v1")


def test_env_family_needs_no_gymnasium_id() -> None:
    env = Own()
    assert env.fingerprint()["versions"].keys() == {"gymnasium"} and env.spaces().actions == "discrete"
    assert Gym("CartPole-v1").fingerprint()["versions"].keys() == {"gymnasium"}
