"""Equal seeds give equal bits, and evaluations do not change them."""

import hashlib
import json
import runpy
from pathlib import Path

import pytest

programs = runpy.run_path(str(Path(__file__).with_name("programs.py")))


def bits(artifact: Path) -> dict[str, str]:
    """Hashes of weights and data, and the scores."""
    names = [path for path in artifact.iterdir() if path.suffix in (".safetensors", ".hdf5")]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}
    history = artifact / "agent.json"
    return found | ({"history": history.read_text()} if history.exists() else {})


@pytest.mark.parametrize("program", programs["PROGRAMS"])
def test_two_runs_give_equal_bits(program, tmp_path):
    first, second = (programs["run"](program, tmp_path / name, steps=100, every=50) for name in ("first", "second"))
    assert bits(first) and bits(first) == bits(second)


@pytest.mark.parametrize("program", ["dqn", "ppo_bc", "bc"])
def test_eval_every_changes_no_bits_of_a_policy(program, tmp_path):
    hashes = set()
    for every in (0, 20, 45):
        artifact = programs["run"](program, tmp_path / str(every), steps=90, every=every)
        hashes.add(bits(artifact)["agent.safetensors"])
        checked = [check["step"] for check in json.loads((artifact / "agent.json").read_text())["history"]]
        assert checked == {0: [], 20: [20, 40, 60, 80, 90], 45: [45, 90]}[every]
    assert len(hashes) == 1


def test_eval_every_changes_no_bits_of_a_reward_model(tmp_path):
    artifacts = [programs["run"]("trex", tmp_path / str(every), steps=90, every=every) for every in (0, 20)]
    weights = {bits(artifact)["agent.safetensors"] for artifact in artifacts}
    assert len(weights) == 1 and "validation/trex/accuracy" in (artifacts[1] / "metrics.jsonl").read_text()


def test_runs_of_different_seeds_differ(tmp_path):
    artifacts = [programs["run"]("bc", tmp_path, steps=10, every=0, seed=seed) for seed in (0, 1)]
    assert bits(artifacts[0]) != bits(artifacts[1])
