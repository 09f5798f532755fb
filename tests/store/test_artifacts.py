"""The store builds an artifact once, publishes it complete or not at all, and survives kills at any point."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lfd.errors import DiskFull, Interrupted, UserError
from lfd.files import load_json
from lfd.store import artifacts
from lfd.store.artifacts import MARKER, STORE_VERSION, ArtifactBuilder, Store, StoredArtifact
from lfd.store.locks import FileLock

MATERIAL = {"steps": 3, "seed": 0}
KEY = Store(Path()).key("fit", MATERIAL)


def work(building: ArtifactBuilder) -> None:
    """Two files, one in a folder, written in two halves each."""
    (building.folder / "deep").mkdir(exist_ok=True)
    for name in ("weights", "deep/more"):
        with open(building.folder / name, "w") as file:
            file.write("one ")
            file.flush()
            os.fsync(file.fileno())
            file.write("two")


def publish(building: ArtifactBuilder, **inputs: str) -> Path:
    return building.publish(MATERIAL, inputs, {"score": 1.5}, {"time": "now"})


def build(root: Path) -> Path:
    with Store(root) as store, store.build(KEY) as place:
        if isinstance(place, ArtifactBuilder):
            work(place)
            return publish(place)
        return place.folder


def assert_whole(folder: Path) -> None:
    assert (folder / "weights").read_text() == (folder / "deep/more").read_text() == "one two"


def run(source: str, root: Path) -> "subprocess.Popen[str]":
    """A process that runs `source` with `store` and `KEY` at hand."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom lfd.store.artifacts import ArtifactBuilder, Store\n"
    head += f"KEY = {KEY!r}\n"
    head += f"store = Store(Path({str(root)!r}))\n"
    return subprocess.Popen([sys.executable, "-c", head + source], stdin=-1, stdout=-1, stderr=-1, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


HOLD = "with store.build(KEY) as place:\n  (place.folder / 'half').touch(); print('holds', flush=True); time.sleep(60)"

BUILD_LOGGED = """
with store.build(KEY) as place:
    if isinstance(place, ArtifactBuilder):
        with open(store.root / 'builders', 'a') as log: log.write(f'{os.getpid()}\\n')
        time.sleep(0.3)
        (place.folder / 'weights').write_text('one')
        place.publish({'steps': 3, 'seed': 0}, {}, {}, {})
print((store.find(KEY) / 'weights').read_text())
"""


def test_find_published_artifact_has_its_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find(KEY) is None
    with store.build(KEY) as place:
        assert isinstance(place, ArtifactBuilder)
        work(place)
        (place.folder / "weights.77.tmp").touch()
        (place.folder / "latest.77.tmp").symlink_to("weights")
        folder = publish(place, expert="fit-0")
    assert folder == store.find(KEY) == tmp_path / KEY
    assert_whole(folder)
    record = load_json(folder / MARKER)
    assert record.pop("created")
    assert record == {
        "key": KEY,
        "version": STORE_VERSION,
        "kind": "fit",
        "material": MATERIAL,
        "inputs": {"expert": "fit-0"},
        "summary": {"score": 1.5},
        "provenance": {"time": "now"},
        "size": 14,
        "files": {"weights": 7, "deep/more": 7},
        "sha256": {},
    }
    with store.build(KEY) as again:
        assert again == StoredArtifact(folder)


def test_build_interrupted_keeps_files_for_the_next_builder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.build(KEY) as place:
        (place.folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert store.find(KEY) is None
    with store.build(KEY) as place:
        assert isinstance(place, ArtifactBuilder)
        assert (place.folder / "half").read_text() == "half"


def test_publish_other_material_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the material of this key"), Store(tmp_path).build(KEY) as place:
        assert isinstance(place, ArtifactBuilder)
        place.publish({"steps": 4}, {}, {}, {})
    assert Store(tmp_path).find(KEY) is None


def test_find_damaged_artifact_is_none_and_is_built_again(tmp_path: Path) -> None:
    for damage in (lambda f: os.truncate(f / "weights", 3), lambda f: (f / "deep/more").unlink()):
        damage(build(tmp_path))
        assert Store(tmp_path).find(KEY) is None
        assert_whole(build(tmp_path))
    (tmp_path / KEY / MARKER).write_text("{")
    assert Store(tmp_path).find(KEY) is None


def test_build_by_sixteen_processes_builds_once(tmp_path: Path) -> None:
    wait = "print('ready', flush=True)\nwhile not (store.root / 'go').exists(): time.sleep(0.001)\n"
    processes = [run(wait + BUILD_LOGGED, tmp_path) for _ in range(16)]
    assert [said(process) for process in processes] == ["ready"] * 16
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in outputs] == ["one\n"] * 16
    assert len((tmp_path / "builders").read_text().split()) == 1
    assert all(err.count("waiting") <= 1 for _, err in outputs)


def test_build_waiter_reports_once_and_continues_after_a_kill(tmp_path: Path) -> None:
    with run(HOLD, tmp_path) as holder:
        assert said(holder) == "holds"
        # the waiter announces itself only when it finds the lock taken, so it must tell before the holder is killed
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line)
            os.kill(holder.pid, signal.SIGKILL)

        with Store(tmp_path, tell).build(KEY) as place:
            assert isinstance(place, ArtifactBuilder)
    assert told == [f"{KEY} is being built by process {holder.pid} on {os.uname().nodename}; waiting for it"]


def test_build_waiter_stops_when_stopping_is_true(tmp_path: Path) -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        with Store(tmp_path).build(KEY), pytest.raises(Interrupted, match=f"waiting for {KEY}"):
            other = Store(tmp_path, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            with other.build(KEY, stopping=lambda: bool(asked)):
                pytest.fail("two builders")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_build_one_waiter_continues_after_a_kill(tmp_path: Path) -> None:
    with run(HOLD, tmp_path) as holder:
        assert said(holder) == "holds"
        waiters = [run(BUILD_LOGGED, tmp_path) for _ in range(4)]
        for waiter in waiters:
            assert waiter.stderr is not None and "waiting" in waiter.stderr.readline()
        holder.kill()
    assert [waiter.communicate(timeout=60)[0] for waiter in waiters] == ["one\n"] * 4
    assert len((tmp_path / "builders").read_text().split()) == 1


def test_lock_ends_with_its_process_despite_forked_children(tmp_path: Path) -> None:
    fork = HOLD.replace("print('holds', flush=True)", "os.write(1, f'{os.fork()}\\n'.encode())")
    with run(fork, tmp_path) as holder:
        # the child says 0 when it is up, the holder says who the child is; one write each, so that lines stay whole
        child = max(int(said(holder)), int(said(holder)))
        holder.kill()
        holder.wait()
        try:
            with Store(tmp_path, pytest.fail).build(KEY) as place:
                assert isinstance(place, ArtifactBuilder)
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


CHANGES = ("fsync", "replace", "rename", "unlink", "mkdir")


def killed_before(number: int, root: Path) -> bool:
    """Builds in a child that is killed before its `number`-th change on the disk; whether it got that far."""
    child = os.fork()
    if child == 0:
        seen = 0
        for name in CHANGES:
            real = getattr(os, name)

            def counted(*arguments: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            setattr(os, name, counted)
        try:
            build(root)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_build_killed_anywhere_leaves_no_complete_artifact(tmp_path: Path) -> None:
    found, number = [], 1
    while killed_before(number, tmp_path / str(number)):
        root = tmp_path / str(number)
        folder = Store(root).find(KEY)
        found.append(folder is not None)
        if folder is not None:
            assert_whole(folder)
        assert_whole(build(root))
        number += 1
    # whole only after the rename, which the last changes follow
    assert found == sorted(found) and found[-1] and not found[0] and number > 12


def test_build_marked_but_not_renamed_is_published(tmp_path: Path) -> None:
    build(tmp_path)
    os.rename(tmp_path / KEY, tmp_path / ".building" / KEY)
    with Store(tmp_path).build(KEY) as place:
        assert place == StoredArtifact(tmp_path / KEY)


def test_build_stale_marker_is_removed(tmp_path: Path) -> None:
    build(tmp_path)
    os.rename(tmp_path / KEY, tmp_path / ".building" / KEY)
    os.truncate(tmp_path / ".building" / KEY / "weights", 3)
    with Store(tmp_path).build(KEY) as place:
        assert isinstance(place, ArtifactBuilder)
        (place.folder / "weights").write_text("one thr")
    assert Store(tmp_path).find(KEY) is None
    with Store(tmp_path).build(KEY) as place:
        assert isinstance(place, ArtifactBuilder)


def test_build_full_disk_keeps_partial_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(DiskFull, match="^the disk is full .*: free some space"), store.build(KEY) as place:
        assert isinstance(place, ArtifactBuilder)
        (place.folder / "half").touch()
        with open("/dev/full", "w") as file:
            file.write("x")
    assert store.find(KEY) is None
    with store.build(KEY) as place:
        assert isinstance(place, ArtifactBuilder) and (place.folder / "half").exists()


def test_publish_full_disk_keeps_partial_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: Any) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "save_json", full)
        with pytest.raises(DiskFull, match="the disk is full"):
            build(tmp_path)
    assert Store(tmp_path).find(KEY) is None
    assert_whole(build(tmp_path))


def test_store_unwritable_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot hold artifacts"), Store(tmp_path / "file").build(KEY):
        pass


def test_find_locks_the_artifact_until_the_store_is_closed(tmp_path: Path) -> None:
    def is_free() -> bool:
        try:
            FileLock(tmp_path / KEY / MARKER, os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB).release()
        except BlockingIOError:
            return False
        return True

    with Store(tmp_path) as builder, builder.build(KEY) as place:
        assert isinstance(place, ArtifactBuilder)
        publish(place)
        assert not is_free()
    assert is_free()
    with Store(tmp_path) as reader:
        assert reader.find(KEY) == reader.find(KEY)
        assert not is_free()
    assert is_free()


def test_find_during_removal_gives_none_or_the_next_artifact(tmp_path: Path) -> None:
    for rebuilt in (False, True):
        lock = FileLock(build(tmp_path) / MARKER, os.O_RDWR, fcntl.LOCK_EX)
        with run("print('asks', flush=True); print(store.find(KEY), flush=True); sys.stdin.read()", tmp_path) as reader:
            assert said(reader) == "asks"
            time.sleep(0.05)
            artifacts.discard(tmp_path, tmp_path / KEY)
            if rebuilt:
                build(tmp_path)
            lock.release()
            assert said(reader) == str(tmp_path / KEY if rebuilt else None)
            if rebuilt:
                with pytest.raises(BlockingIOError, match="unavailable"):
                    FileLock(tmp_path / KEY / MARKER, os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB)
            reader.kill()
