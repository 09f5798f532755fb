"""How a run ends: whose fault it was, in one line."""

import errno
import os

import pytest
import torch

from lfd.errors import FOREIGN, DiskFull, Diverged, Refused, ending_of, foreign_code, system_error


@pytest.mark.parametrize("error", [ValueError("a\n b"), SystemExit(3), ZeroDivisionError()])
def test_what_other_peoples_code_raises_is_told_as_theirs(error):
    with (
        pytest.raises(Refused, match="^environment X failed with ") as caught,
        foreign_code("environment X", "mend it"),
    ):
        raise error
    assert caught.value.__cause__ is error and "\n" not in str(caught.value)
    assert str(caught.value).endswith("; mend it; HYDRA_FULL_ERROR=1 shows the traceback")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Refused("own"), Diverged("own"), DiskFull("own")])
def test_what_is_ours_passes_through_other_peoples_code(error):
    with pytest.raises(type(error)) as caught, foreign_code("environment X"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_file(number):
    ending = system_error(OSError(number, os.strerror(number), "out/result.json.123.tmp"))
    assert isinstance(ending, DiskFull) and "(out/result.json could not be written)" in str(ending)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EACCES, errno.ENOENT])
def test_what_a_file_system_refuses_is_told_with_the_path(number):
    for error, path in [
        (OSError(number, os.strerror(number), "out/x"), ""),
        (OSError(number, os.strerror(number)), "out/x"),
    ]:
        ending = system_error(error, path)
        assert isinstance(ending, Refused) and str(ending).startswith(f"out/x cannot be used ({os.strerror(number)}): ")


def test_no_memory_is_told_whoever_finds_it_out():
    with pytest.raises(RuntimeError, match="memory|overflow") as caught:
        torch.empty(10**15)
    for error in (MemoryError(), caught.value, OSError(errno.ENOMEM, "x")):
        assert str(ending_of(error)).startswith("out of memory")


def test_what_nobody_else_is_to_blame_for_stays_a_fault_of_ours():
    for error in (KeyError("x"), RuntimeError("x"), OSError("x"), OSError(errno.ECONNREFUSED, "x")):
        assert ending_of(error) is None


def test_an_error_that_passed_through_a_plugin_is_the_plugins(monkeypatch):
    monkeypatch.setitem(FOREIGN, "somebodys", "the plugin of somebody")
    there = {"__name__": "somebodys.losses"}
    exec("def loss(): raise KeyError('mine')", there)
    try:
        there["loss"]()
    except KeyError as error:
        assert str(ending_of(error)).startswith(
            "the plugin of somebody failed with KeyError: 'mine'; HYDRA_FULL_ERROR=1"
        )
