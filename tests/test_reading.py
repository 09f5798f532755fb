"""A stored policy acts on raw observations as it did when it was trained, wherever it is read."""

import json
import os
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
from lfd.errors import Refused
from lfd.files import load_json, load_tensors, save_json, save_tensors
from lfd.stages.trained import open_trained
from tests import programs
from tests.tampering import tampered

WATCH = Path(__file__).parents[1] / "scripts" / "watch.py"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy normalises its observations, as its folder and artifacts lie after a real run."""
    outputs = tmp_path_factory.mktemp("outputs")
    artifact = programs.run("ppo", outputs / "artifacts", steps=40, every=20)
    folder = outputs / "runs" / "ppo-cartpole-s0-00000000"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"stages": {"learn": {"artifact": artifact.name}}}))
    return folder


def test_acts_as_the_trained_agent_on_raw_observations(run_folder):
    policy = lfd.load(run_folder)
    artifact = next((run_folder.parents[1] / "artifacts").glob("fit-*"))
    agent = open_trained(artifact).agents()[0]
    assert agent.normalisers["obs"].count > 0
    env = gym.make("CartPole-v1")
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        action = policy.act(observation)
        assert type(action) is int and env.action_space.contains(action)
        raw = torch.from_numpy(np.asarray(observation, np.float32))[None]
        normal = (raw - agent.normalisers["obs"].mean) / (agent.normalisers["obs"].variance.sqrt() + 1e-3)
        assert action == agent.nets["policy"](normal).logits.argmax().item()


def test_continuous_actions_are_in_units_of_the_space(tmp_path):
    policy = lfd.load(programs.run("cql_continuous", tmp_path, steps=5, every=5))
    env = gym.make("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    with torch.no_grad():
        agent = policy.agent
        mode = agent.distribution(agent.observe(torch.from_numpy(observation)[None])).mode()
    assert policy.act(observation) == pytest.approx(2 * mode[0].numpy())


@pytest.mark.parametrize(("what", "says"), [
    ({"stage": "lern"}, "did you mean 'learn'"), ({"member": 3}, "the policy has 1"),
])  # fmt: skip
def test_what_is_not_there_is_named(run_folder, what, says):
    with pytest.raises(Refused, match=says):
        lfd.load(run_folder, **what)


@pytest.mark.parametrize(
    ("observation", "says"),
    [
        ([0.0] * 3, r"shape \(3,\)"),
        ([[0.0] * 4] * 5, r"shape \(5, 4\)"),
        ([float("nan")] * 4, "no finite number"),
        ([1e300] * 4, "no finite number"),
        ("x", "no array"),
    ],
)
def test_what_is_no_observation_is_refused(run_folder, observation, says):
    with pytest.raises(Refused, match=says):
        lfd.load(run_folder).act(observation)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(Refused, match="no result.json"):
        lfd.load(tmp_path)


@pytest.mark.parametrize("seed", range(0, 120, 10))
def test_a_damaged_run_is_told_by_its_folder_or_acts_as_ever(seed, run_folder, tmp_path):
    for one in range(seed, seed + 10):
        folder = tampered(run_folder.parents[1], tmp_path / str(one), run_folder.name, one)
        try:
            assert lfd.load(folder).act([0.0] * 4) in (0, 1)
        except Refused as refusal:
            assert str(refusal).startswith(str(folder)), refusal


def test_weights_that_are_no_numbers_are_refused(run_folder, tmp_path):
    shutil.copytree(run_folder.parents[1], tmp_path / "outputs")
    (weights,) = tmp_path.glob("outputs/artifacts/fit-*/agent.safetensors")
    values = load_tensors(weights)
    name = next(name for name, value in values.items() if value.is_floating_point() and value.dim() == 2)
    values[name][0, 0] = float("nan")
    save_tensors(weights, values)
    marker = weights.parent / "artifact.json"
    save_json(
        marker, {name: value for name, value in load_json(marker).items() if name != "sha256"}
    )  # an older store's
    with pytest.raises(Refused, match=f"{name} is not finite"):
        lfd.load(tmp_path / "outputs" / "runs" / run_folder.name)


def test_a_pipe_in_the_place_of_a_file_is_refused(run_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    os.mkfifo(folder / "result.json")
    with pytest.raises(Refused, match="no plain file"):
        lfd.load(folder)


def test_watch_films_a_run(run_folder):
    done = subprocess.run([sys.executable, WATCH, run_folder, "--episodes", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    film = Path(done.stdout.splitlines()[-1])
    with Image.open(film) as pictures:
        assert pictures.n_frames > 5


def test_watch_refuses_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, WATCH, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no result.json" in done.stderr


def test_a_flipped_bit_of_the_weights_is_refused(run_folder, tmp_path):
    shutil.copytree(run_folder.parents[1], tmp_path / "outputs")
    (weights,) = tmp_path.glob("outputs/artifacts/fit-*/agent.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    run = tmp_path / "outputs" / "runs" / run_folder.name
    with pytest.raises(Refused, match=f"^{run}: agent.safetensors is damaged: its sha256"):
        lfd.load(run)


def test_a_policy_of_an_earlier_version_is_refused_in_a_line(run_folder, tmp_path):
    shutil.copytree(run_folder.parents[1], tmp_path / "outputs")
    marker = next((tmp_path / "outputs" / "artifacts").glob("fit-*")) / "artifact.json"
    save_json(marker, {key: value for key, value in load_json(marker).items() if key != "version"})
    with pytest.raises(Refused, match=r"^[^\n]*was stored by an earlier version of lfd[^\n]*repeat the command[^\n]*$"):
        lfd.load(tmp_path / "outputs" / "runs" / run_folder.name)
