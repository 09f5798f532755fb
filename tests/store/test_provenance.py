"""The provenance of results, without secrets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lfd.store.provenance import provenance, without_secrets


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    source = tmp_path / "src"
    source.mkdir()
    (source / "code.py").write_text("x = 1\n")
    git(tmp_path, "init")
    git(tmp_path, "add", "src")
    git(tmp_path, "commit", "-m", "first")
    return source


def test_provenance_names_versions_machine_and_command(tmp_path: Path) -> None:
    told = provenance("cpu", tmp_path)
    assert told["device"] == "cpu" and told["argv"] == sys.argv and told["time"].endswith("+00:00")
    assert {"python", "torch", "numpy", "gymnasium"} <= told["versions"].keys()
    assert json.loads(json.dumps(told)) == told


def test_provenance_of_checkout_has_commit_and_diff(checkout: Path) -> None:
    clean = provenance("cpu", checkout)["git"]
    assert len(clean["commit"]) == 40 and clean["diff"] == "" and clean["untracked"] == []
    (checkout / "code.py").write_text("x = 2\n")
    (checkout / "new.py").touch()
    changed = provenance("cpu", checkout)["git"]
    assert changed["commit"] == clean["commit"]
    assert "-x = 1\n+x = 2\n" in changed["diff"] and changed["untracked"] == ["new.py"]


def test_provenance_outside_checkout_has_no_git(tmp_path: Path, checkout: Path) -> None:
    installed = checkout / "site-packages"
    installed.mkdir()
    assert provenance("cpu", installed)["git"] is None


def test_provenance_without_git_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance("cpu", checkout)["git"] is None


SECRETS = {
    "logger.api_key=abc123def": "logger.api_key=HIDDEN",
    "+env.kwargs.token='a b'": "+env.kwargs.token=HIDDEN",
    "https://tom:hunter2@git.example/x.git": "https://HIDDEN@git.example/x.git",
    "https://ghp_abcdefghijklmnop@github.com/x": "https://HIDDEN@github.com/x",
    "see ghp_abcdefghijklmnop": "see HIDDEN",
    'password: "x y"': "password: HIDDEN",
    "lr=1e-3 dataset.path=tom@lab.npz": "lr=1e-3 dataset.path=tom@lab.npz",
}


@pytest.mark.parametrize("text", SECRETS)
def test_without_secrets_hides_secret_values(text: str) -> None:
    assert without_secrets(text) == SECRETS[text]


def test_provenance_hides_secrets_of_the_environment(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "xyzzy-plugh")
    monkeypatch.setattr(sys, "argv", ["run.py", "outputs=/home/xyzzy-plugh"])
    (checkout / "code.py").write_text("x = 'xyzzy-plugh'\nurl = 'https://me:pw@host/'\n")
    told = provenance("cpu", checkout)
    assert told["argv"] == ["run.py", "outputs=/home/HIDDEN"]
    assert "xyzzy" not in json.dumps(told) and "me:pw" not in json.dumps(told)
    assert "+x = 'HIDDEN'" in told["git"]["diff"]
