"""Errors of foreign code and of the machine end a run in one line; the table of exit codes is complete."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from lfd.errors import (
    EXIT_CODES,
    PLUGIN_MODULES,
    DiskFull,
    Diverged,
    RunError,
    UserError,
    external_errors,
    system_error,
    to_run_error,
)

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("error", [ValueError("a\n b"), SystemExit(3), ZeroDivisionError()])
def test_foreign_code_errors_are_refused_in_one_line(error):
    with (
        pytest.raises(UserError, match="^environment X failed with ") as caught,
        external_errors("environment X", "mend it"),
    ):
        raise error
    assert caught.value.__cause__ is error and "\n" not in str(caught.value)
    assert str(caught.value).endswith("; mend it; HYDRA_FULL_ERROR=1 shows the traceback")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("own"), Diverged("own"), DiskFull("own")])
def test_foreign_code_run_errors_pass_through(error):
    with pytest.raises(type(error), match="own|^$") as caught, external_errors("environment X"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_system_error_of_a_full_disk_names_the_file(number):
    run_error = system_error(OSError(number, os.strerror(number), "out/result.json.123.tmp"))
    assert isinstance(run_error, DiskFull) and "(out/result.json could not be written)" in str(run_error)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EACCES, errno.ENOENT])
def test_system_error_of_a_file_system_names_the_path(number):
    for error, path in [
        (OSError(number, os.strerror(number), "out/x"), ""),
        (OSError(number, os.strerror(number)), "out/x"),
    ]:
        run_error = system_error(error, path)
        assert isinstance(run_error, UserError) and str(run_error).startswith(
            f"out/x cannot be used ({os.strerror(number)}): "
        )


def test_to_run_error_out_of_memory_of_python_torch_and_the_system():
    with pytest.raises(RuntimeError, match="memory|overflow") as caught:
        torch.empty(10**15)
    for error in (MemoryError(), caught.value, OSError(errno.ENOMEM, "x")):
        assert str(to_run_error(error)).startswith("out of memory")


def test_to_run_error_of_an_internal_error_is_none():
    for error in (KeyError("x"), RuntimeError("x"), OSError("x"), OSError(errno.ECONNREFUSED, "x")):
        assert to_run_error(error) is None


def test_to_run_error_of_a_plugin_names_the_plugin(monkeypatch):
    monkeypatch.setitem(PLUGIN_MODULES, "some_plugin", "the plugin some_plugin")
    namespace = {"__name__": "some_plugin.losses"}
    exec("def loss(): raise KeyError('x')", namespace)
    try:
        namespace["loss"]()
    except KeyError as error:
        assert str(to_run_error(error)).startswith(
            "the plugin some_plugin failed with KeyError: 'x'; HYDRA_FULL_ERROR=1"
        )


def test_exit_codes_contain_the_code_of_every_run_error():
    codes = {cls.exit_code for cls in RunError.__subclasses__()}
    assert codes | {0, 1} == set(EXIT_CODES)
    line = re.search(r"^Exit codes: .*?\.$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert line and {int(code) for code in re.findall(r"\b\d+\b", line.group())} == set(EXIT_CODES)
