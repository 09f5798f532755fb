"""A stored policy acts on raw observations as the trained one did; damaged runs are refused in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

import lfd
from lfd.envs import MiniGrid
from lfd.errors import UserError
from lfd.experts.experts import Expert
from lfd.files import load_json, load_tensors, save_json, save_tensors
from lfd.runs.policy import Policy
from lfd.stages.trained import open_trained
from tests import composed, programs
from tests.tampering import tampered

WATCH = Path(__file__).parents[2] / "scripts" / "watch.py"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder and store with a policy that normalizes observations."""
    outputs = tmp_path_factory.mktemp("outputs")
    artifact = programs.run("ppo", outputs / "artifacts", steps=40, every=20)
    folder = outputs / "runs" / "ppo-cartpole-s0-00000000"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"stages": {"learn": {"artifact": artifact.name}}}))
    return folder


def test_policy_acts_as_the_trained_agent_on_raw_observations(run_folder):
    policy = lfd.load(run_folder)
    artifact = next((run_folder.parents[1] / "artifacts").glob("fit-*"))
    agent = open_trained(artifact).agents()[0]
    assert agent.normalizers["obs"].count > 0
    env = gym.make("CartPole-v1")
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        action = policy.act(observation)
        assert type(action) is int and env.action_space.contains(action)
        raw = torch.from_numpy(np.asarray(observation, np.float32))[None]
        normal = (raw - agent.normalizers["obs"].mean) / (agent.normalizers["obs"].variance.sqrt() + 1e-3)
        assert action == agent.nets["policy"](normal).logits.argmax().item()


def test_policy_gives_continuous_actions_in_units_of_the_space(tmp_path):
    policy = lfd.load(programs.run("cql_continuous", tmp_path, steps=5, every=5))
    env = gym.make("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    with torch.no_grad():
        agent = policy.agent
        mode = agent.policy(agent.normalize_obs(torch.from_numpy(observation)[None])).mode()
    assert policy.act(observation) == pytest.approx(2 * mode[0].numpy())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"stage": "lern"}, "did you mean 'learn'"), ({"member": 3}, "member: expected 0 to 0, got 3"),
])  # fmt: skip
def test_load_of_an_unknown_stage_or_member_is_refused(run_folder, arguments, message):
    with pytest.raises(UserError, match=message):
        lfd.load(run_folder, **arguments)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([0.0] * 3, r"expected shape \(4,\), got \(3,\)"),
        ([[0.0] * 4] * 5, r"expected shape \(4,\), got \(5, 4\)"),
        ([float("nan")] * 4, "expected finite numbers"),
        ([1e300] * 4, "expected finite numbers"),
        ("x", "expected an array of numbers"),
    ],
)
def test_act_on_a_wrong_observation_is_refused(run_folder, observation, message):
    with pytest.raises(UserError, match=message):
        lfd.load(run_folder).act(observation)


def test_load_of_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no result.json"):
        lfd.load(tmp_path)


@pytest.mark.parametrize("seed", range(0, 120, 10))
def test_load_of_a_damaged_run_names_the_folder_or_works(seed, run_folder, tmp_path):
    for number in range(seed, seed + 10):
        folder = tampered(run_folder.parents[1], tmp_path / str(number), run_folder.name, number)
        try:
            assert lfd.load(folder).act([0.0] * 4) in (0, 1)
        except UserError as refusal:
            assert str(refusal).startswith(str(folder)), refusal


def test_load_of_weights_with_nan_is_refused(run_folder, tmp_path):
    shutil.copytree(run_folder.parents[1], tmp_path / "outputs")
    (weights,) = tmp_path.glob("outputs/artifacts/fit-*/agent.safetensors")
    values = load_tensors(weights)
    name = next(name for name, value in values.items() if value.is_floating_point() and value.dim() == 2)
    values[name][0, 0] = float("nan")
    save_tensors(weights, values)
    marker = weights.parent / "artifact.json"
    # A store of an earlier version has no sha256.
    save_json(marker, {name: value for name, value in load_json(marker).items() if name != "sha256"})
    with pytest.raises(UserError, match=f"{name}: expected finite weights"):
        lfd.load(tmp_path / "outputs" / "runs" / run_folder.name)


def test_load_of_a_pipe_is_refused(run_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    os.mkfifo(folder / "result.json")
    with pytest.raises(UserError, match="expected a regular file"):
        lfd.load(folder)


class Forward(Expert):
    """Always goes forward."""

    def policy(self, env, device, snapshot=None, rng=None):
        return lambda obs: np.full(1, 2)


def test_film_of_a_level_has_missions_and_actions_as_captions(tmp_path, monkeypatch):
    env = MiniGrid("BabyAI-GoToLocal-v0", mission_length=5, max_episode_steps=3)
    spaces = env.spaces()
    told = []
    monkeypatch.setattr("lfd.runs.policy.save_film", lambda frames, path, fps, captions: told.append((fps, captions)))
    policy = Policy(composed.policy([4]).build(spaces), env)
    policy.film(tmp_path / "film.gif", episodes=2, expert=Forward())
    policy.film(tmp_path / "film.gif", fps=9)
    (fps, captions), (other, alone) = told
    assert (fps, other) == (3, 9) and 3 < len(captions) <= 6
    for mission, actions in captions:
        assert mission.startswith("go to ") and re.fullmatch("agent: [a-z]+   expert: forward", actions)
    assert len({mission for mission, _ in captions}) == 2
    assert re.fullmatch("agent: [a-z]+", alone[0][1])


def test_film_without_missions_has_no_captions(run_folder, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("lfd.runs.policy.save_film", lambda frames, path, fps, captions: told.append((fps, captions)))
    lfd.load(run_folder).film(tmp_path / "film.gif")
    assert told == [(30, [])]


def test_watch_script_films_a_run(run_folder):
    done = subprocess.run([sys.executable, WATCH, run_folder, "--episodes", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    film = Path(done.stdout.splitlines()[-1])
    with Image.open(film) as pictures:
        assert pictures.n_frames > 5


def test_watch_script_prints_an_error_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, WATCH, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no result.json" in done.stderr


def test_load_of_weights_with_a_flipped_bit_is_refused(run_folder, tmp_path):
    shutil.copytree(run_folder.parents[1], tmp_path / "outputs")
    (weights,) = tmp_path.glob("outputs/artifacts/fit-*/agent.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    run = tmp_path / "outputs" / "runs" / run_folder.name
    with pytest.raises(UserError, match=f"^{run}: agent.safetensors is damaged: its sha256"):
        lfd.load(run)


def test_load_of_a_policy_of_an_earlier_version_is_refused_in_one_line(run_folder, tmp_path):
    shutil.copytree(run_folder.parents[1], tmp_path / "outputs")
    marker = next((tmp_path / "outputs" / "artifacts").glob("fit-*")) / "artifact.json"
    save_json(marker, {key: value for key, value in load_json(marker).items() if key != "version"})
    with pytest.raises(
        UserError, match=r"^[^\n]*was stored by an earlier version of lfd[^\n]*repeat the command[^\n]*$"
    ):
        lfd.load(tmp_path / "outputs" / "runs" / run_folder.name)
