"""gc removes unused artifacts only; the script lists, verifies and removes."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lfd.errors import UserError
from lfd.files import load_json, save_json
from lfd.runs import gc as housekeeping
from lfd.runs.gc import Inventory, gc, take_inventory
from lfd.store.artifacts import MARKER, ArtifactBuilder, Store, discard

SCRIPT = Path(__file__).parents[2] / "scripts" / "artifacts.py"


def store(root: Path, name: str, **inputs: str) -> str:
    with Store(root) as place:
        key = place.key("fit", name)
        with place.build(key) as building:
            assert isinstance(building, ArtifactBuilder)
            (building.folder / "weights").write_bytes(bytes(1000))
            (building.folder / "agent.json").write_text("{}")
            building.publish(name, inputs, {}, {})
    return key


def partial(root: Path, name: str, days: float = 0) -> str:
    with Store(root) as place:
        key = place.key("collect", name)
        with place.build(key) as building:
            (building.folder / "half").touch()
    for path in (building.folder / "half", building.folder):
        changed = path.stat().st_mtime - days * 86400
        os.utime(path, (changed, changed))
    return key


def use(runs: Path, name: str, *keys: str) -> None:
    (runs / name).mkdir(parents=True)
    stages = {f"stage{number}": {"artifact": key} for number, key in enumerate(keys)}
    save_json(runs / name / "result.json", {"status": "done", "stages": stages | {"score": {}}})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def kept(root: Path) -> set[str]:
    return {path.name for folder in (root, root / ".building") for path in folder.glob("*-*")}


def test_gc_keeps_artifacts_of_runs_and_their_inputs(root: Path, runs: Path) -> None:
    expert = store(root, "expert")
    data = store(root, "data", policy=expert)
    learner = store(root, "learner", demos=data)
    lone = store(root, "lone")
    above = store(root, "above", policy=lone)
    use(runs, "cql-cartpole", learner)
    assert {item.key for item in take_inventory(root, runs).stale()} == {lone, above}
    assert {item.key for item in gc(root, runs)} == {lone, above}
    assert kept(root) == {expert, data, learner}
    assert not list((root / ".trash").iterdir())


def test_gc_keeps_artifacts_of_processes_and_their_inputs(root: Path, runs: Path) -> None:
    expert = store(root, "expert")
    data = store(root, "data", policy=expert)
    with Store(root) as reader:
        assert reader.find(data)
        assert gc(root, runs) == []
        assert kept(root) == {expert, data}
    assert {item.key for item in gc(root, runs)} == {expert, data}


def test_gc_removes_partial_artifacts_only_if_old_unused_and_idle(root: Path, runs: Path) -> None:
    old, fresh, needed, busy = (partial(root, *case) for case in (("a", 8), ("b", 6), ("c", 8), ("d", 8)))
    use(runs, "interrupted", needed)
    with Store(root) as builder, builder.build(busy):
        assert {item.key for item in gc(root, runs)} == {old}
    assert kept(root) == {fresh, needed, busy}


@pytest.mark.parametrize("answers", ["labels.json", "answers-000.jsonl"])
def test_gc_keeps_partial_artifacts_with_human_labels(answers: str, root: Path, runs: Path) -> None:
    key = partial(root, "a", 8)
    folder = root / ".building" / key / "demos" / "round-000"
    folder.mkdir(parents=True)
    (folder / answers).touch()
    os.utime(folder.parents[1], (0, 0))
    assert gc(root, runs) == [] and kept(root) == {key}


def test_gc_keeps_artifacts_of_interrupted_run_until_its_folder_is_removed(root: Path, runs: Path) -> None:
    expert = store(root, "expert")
    use(runs, "interrupted", expert)
    save_json(
        runs / "interrupted" / "result.json", {"status": "interrupted", "stages": {"expert": {"artifact": expert}}}
    )
    assert gc(root, runs) == [] and kept(root) == {expert}
    shutil.rmtree(runs / "interrupted")
    assert [item.key for item in gc(root, runs)] == [expert]


def test_gc_removes_damaged_artifacts_and_trash(root: Path, runs: Path) -> None:
    damaged = store(root, "damaged")
    os.truncate(root / damaged / "weights", 1)
    (root / ".trash" / "left").mkdir(parents=True)
    assert [(item.key, item.state) for item in gc(root, runs)] == [(damaged, "damaged")]
    assert kept(root) == set() and not list((root / ".trash").iterdir())


def test_gc_keeps_artifacts_used_after_the_first_inventory(
    root: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert, lone = store(root, "expert"), store(root, "lone")

    def look_before_a_run_ends(*arguments: Any) -> Inventory:
        inventory = take_inventory(*arguments)
        if not runs.exists():
            use(runs, "late", expert)
        return inventory

    monkeypatch.setattr(housekeeping, "take_inventory", look_before_a_run_ends)
    assert [item.key for item in gc(root, runs)] == [lone]
    assert kept(root) == {expert}


def test_gc_keeps_artifacts_rebuilt_while_it_locks(root: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store(root, "lone")
    flock = fcntl.flock
    swaps: list[str] = []

    def look(*arguments: Any) -> Inventory:
        inventory = take_inventory(*arguments)
        swaps.append(key)
        return inventory

    with Store(root) as reader:

        def swap_then_lock(descriptor: int, operation: int) -> None:
            if swaps == [key]:
                swaps.append("swapped")
                discard(root, root / key)
                store(root, "lone")
                assert reader.find(key)
            flock(descriptor, operation)

        monkeypatch.setattr(housekeeping, "take_inventory", look)
        monkeypatch.setattr(fcntl, "flock", swap_then_lock)
        assert gc(root, runs) == []
    assert kept(root) == {key} and "swapped" in swaps


def test_gc_with_damaged_run_result_is_refused(root: Path, runs: Path) -> None:
    store(root, "expert")
    (runs / "torn").mkdir(parents=True)
    (runs / "torn" / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"torn/result\.json: expected JSON, got a damaged file"):
        gc(root, runs)
    assert len(kept(root)) == 1


def script(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True)


def test_artifacts_script_lists_and_removes(tmp_path: Path) -> None:
    root, runs = tmp_path / "outputs" / "artifacts", tmp_path / "outputs" / "runs"
    expert, lone = store(root, "expert"), store(root, "lone")
    data = store(root, "data", policy=expert)
    use(runs, "bc-cartpole-s0", data)
    shown = script(tmp_path, "ls")
    lines = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert shown.returncode == 0 and lines["key"].split() == ["key", "kind", "state", "size", "age", "used", "by"]
    assert lines[expert].endswith(data) and lines[data].endswith("bc-cartpole-s0") and lines[lone].endswith("-")
    assert " kB " in lines[expert]
    for arguments in (["gc"], ["gc", "--dry-run"]):
        asked = script(tmp_path, *arguments)
        assert asked.returncode == 0 and lone in asked.stdout and "would be removed" in asked.stdout
    assert kept(root) == {expert, lone, data}
    done = script(tmp_path, "gc", "--yes", "--outputs", "outputs")
    assert done.returncode == 0 and "1 artifact" in done.stdout and kept(root) == {expert, data}
    assert "nothing to remove" in script(tmp_path, "gc").stdout


def test_artifacts_script_verify_names_damaged_artifacts(tmp_path: Path) -> None:
    root = tmp_path / "outputs" / "artifacts"
    sound, damaged, cut = store(root, "sound"), store(root, "damaged"), store(root, "cut")
    done = script(tmp_path, "verify")
    assert (done.returncode, done.stdout) == (0, "3 artifacts, 3.8 kB: 0 damaged\n")
    (root / damaged / "agent.json").write_text("{]")
    os.truncate(root / cut / "weights", 1)
    done = script(tmp_path, "verify")
    lines = done.stdout.splitlines()
    assert done.returncode == 2 and len(lines) == 3 and lines[-1].endswith("2 damaged") and sound not in done.stdout
    assert any(
        line.startswith(f"{damaged}: ") and "agent.json: expected JSON, got a damaged file" in line for line in lines
    )
    assert f"{cut}: a file is missing or cut short" in lines


def test_artifacts_script_help_names_kept_artifacts(tmp_path: Path) -> None:
    told = " ".join(script(tmp_path, "gc", "--help").stdout.split())
    assert "stay until they have been idle for 7 days" in told and "remove the folder first" in told


@pytest.mark.parametrize("arguments", [[], ["lss"], ["gc", "--yes", "--dry-run"], ["ls", "--yes"], ["ls"]])
def test_artifacts_script_bad_arguments_are_one_line(tmp_path: Path, arguments: list[str]) -> None:
    refused = script(tmp_path, *arguments)
    assert refused.returncode == 2 and refused.stdout == "" and refused.stderr.count("\n") == 1


def age(root: Path, key: str) -> None:
    """Make an artifact one of an earlier version, which wrote no number."""
    marker = load_json(root / key / MARKER)
    del marker["version"]
    save_json(root / key / MARKER, marker)
    (root / ".version").unlink(missing_ok=True)


def test_gc_removes_artifacts_of_an_earlier_version_even_if_used(
    root: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = store(root, "old"), store(root, "new")
    use(runs, "both", old, new)
    assert capsys.readouterr().err == ""
    age(root, old)
    with Store(root) as place:
        assert place.find(old) is None and place.find(new) is not None
    store(root, "newer", input=new)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"{root}: artifacts of an earlier version of lfd are not read (1); "
        f"`python scripts/artifacts.py gc --yes --outputs {root.parent}` removes them"
    ]
    assert [item.state for item in take_inventory(root, runs).entries if item.key == old] == ["earlier"]
    assert old in {item.key for item in gc(root, runs)}
    assert kept(root) == {new}
    store(root, "newest")
    assert capsys.readouterr().err == "" and (root / ".version").exists()
