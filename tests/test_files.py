"""Files hold their old or their new content whatever happens; damaged ones are refused by name."""

import errno
import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lfd.errors import DiskFull, UserError
from lfd.files import (
    Checkpoints,
    allocate_file,
    file_sha256,
    load_json,
    load_json_object,
    load_tensors,
    replace_symlink,
    save_json,
    save_tensors,
)

CHANGES = ("fsync", "replace", "rename")


def killed_before(number: int, work: Callable[[], object]) -> bool:
    """Does the work in a child that is killed before the `number`-th change it makes durable; whether it got there."""
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
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_allocate_file_sparse_file_gets_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    path = tmp_path / "ring.npy"
    path.write_bytes(b"head")
    os.truncate(path, 20 << 20)
    assert path.stat().st_blocks * 512 < 1 << 20
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "darwin":
        monkeypatch.delattr(os, "posix_fallocate")
    allocate_file(path)
    assert path.stat().st_blocks * 512 >= path.stat().st_size == 20 << 20
    assert path.read_bytes() == b"head" + bytes((20 << 20) - 4)


def test_load_json_round_trip_is_bit_equal(tmp_path: Path) -> None:
    state = {"x": 0.1 + 0.2, "n": 2**80, "deep": [{"a": None}, "é"]}
    save_json(tmp_path / "a.json", state)
    assert load_json(tmp_path / "a.json") == state
    assert os.listdir(tmp_path) == ["a.json"]


def test_load_object_missing_field_is_refused(tmp_path: Path) -> None:
    save_json(tmp_path / "a.json", {"a": 1})
    assert load_json_object(tmp_path / "a.json", "a") == {"a": 1}
    with pytest.raises(UserError, match=r"a\.json is damaged \('b' is missing\)"):
        load_json_object(tmp_path / "a.json", "a", "b")
    save_json(tmp_path / "a.json", [1])
    with pytest.raises(UserError, match=r"a\.json is damaged \(it holds no object"):
        load_json_object(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b""])
def test_load_json_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: expected JSON, got a damaged file"):
        load_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        load_json(tmp_path / "none.json")


def test_write_killed_anywhere_leaves_old_or_new_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    save_json(path, "old")
    seen, number = set(), 1
    while killed_before(number, lambda: save_json(path, "new")):
        seen.add(load_json(path))
        number += 1
    assert seen == {"old", "new"} and load_json(path) == "new"


def test_load_tensors_round_trip_is_bit_equal(tmp_path: Path) -> None:
    shared = torch.randn(3, 4)
    tensors = {
        "a": shared,
        "tied": shared,
        "strided": shared.t(),
        "half": shared.bfloat16(),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "flags": torch.tensor([True, False]),
        "generator": torch.Generator().get_state(),
        "parameter": torch.nn.Parameter(shared),
    }
    save_tensors(tmp_path / "t.safetensors", tensors)
    loaded = load_tensors(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    loaded["a"].zero_()
    assert torch.equal(load_tensors(tmp_path / "t.safetensors")["a"], shared)


def test_load_tensors_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.ones(100)})
    os.truncate(path, 200)
    with pytest.raises(UserError, match=r"t\.safetensors is not a complete"):
        load_tensors(path)
    with pytest.raises(UserError, match=r"none is not a complete"):
        load_tensors(tmp_path / "none")


def test_write_full_disk_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    save_json(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"^the disk is full .*a\.json.*$"):
        save_json(path, "new")
    assert load_json(path) == "old" and os.listdir(tmp_path) == ["a.json"]


def age(path: Path) -> None:
    os.utime(path, (1e9, 1e9))


def test_file_sha256_is_cached_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, memo = tmp_path / "a", tmp_path / "memo"
    path.write_bytes(b"abc")
    age(path)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(path, memo) == abc
    moved = path.rename(tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert file_sha256(moved, memo) == abc
    moved.write_bytes(b"abd")
    assert file_sha256(moved, memo) != abc


def test_file_sha256_of_new_file_is_not_cached(tmp_path: Path) -> None:
    path, memo = tmp_path / "a", tmp_path / "memo"
    path.write_bytes(b"abc")
    file_sha256(path, memo)
    assert not memo.exists()


def test_file_sha256_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="expected a file"):
            file_sha256(path, tmp_path / "memo")


def saved(folder: Path, *numbers: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for number in numbers:
        checkpoints.save({"w": torch.full((4,), float(number))}, {"step": number})
    return checkpoints


def step(checkpoints: Checkpoints) -> int | None:
    """The step of the loaded checkpoint, whose tensors must be of the same moment."""
    loaded = checkpoints.load()
    if loaded is None:
        return None
    assert (loaded[0]["w"] == loaded[1]["step"]).all()
    return int(loaded[1]["step"])


def test_checkpoints_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    assert step(Checkpoints(tmp_path / "c")) is None
    checkpoints = saved(tmp_path / "c", *range(12))
    assert step(checkpoints) == 11
    assert sorted(os.listdir(tmp_path / "c")) == ["ckpt-10", "ckpt-11"]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_checkpoints_damaged_one_is_skipped(tmp_path: Path, name: str) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    os.truncate(tmp_path / "ckpt-1" / name, 12)
    with pytest.warns(UserWarning, match=f"checkpoint skipped: .*{name}"):
        assert step(checkpoints) == 1
    checkpoints.save({"w": torch.full((4,), 3.0)}, {"step": 3})
    assert step(checkpoints) == 3


def test_checkpoints_killed_anywhere_leaves_old_or_new(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    seen, number = [], 1
    while killed_before(number, lambda: saved(tmp_path, 2)):
        seen.append(step(checkpoints))
        number += 1
    assert seen == [1] * (len(seen) - 1) + [2] and number > 6
    assert step(checkpoints) == 2


def test_checkpoints_full_disk_keeps_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="the disk is full"):
            saved(tmp_path, 3)
    assert step(checkpoints) == 2
    assert step(saved(tmp_path, 3)) == 3


def test_replace_symlink_after_kill_is_atomic(tmp_path):
    (tmp_path / f"latest.{os.getpid()}.tmp").symlink_to("nowhere")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        replace_symlink(tmp_path / "latest", name)
        assert os.readlink(tmp_path / "latest") == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]


def test_to_json_nonfinite_numbers_are_null(tmp_path):
    save_json(tmp_path / "a.json", {"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": -float("inf")}})
    assert load_json(tmp_path / "a.json") == {"a": [None, [None, 1.5]], "b": {"c": None}}
    assert "NaN" not in (tmp_path / "a.json").read_text()
