"""Where a result comes from: code, versions, machine, command and time. Never part of a key."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "lfd", "torch", "numpy", "gymnasium", "hydra-core", "omegaconf", "safetensors", "h5py",
    "ale-py", "mujoco", "box2d", "minigrid", "envpool",
)  # fmt: skip
DIFF_LIMIT = 1_000_000  # characters


# Names of what is nobody's business, in the environment, on a command line or in code.
_SECRET = r"[\w.-]*(?:secret|token|passw|credential|api_?key|access_?key|private_?key)[\w.-]*"
_NAMED = re.compile(rf"""({_SECRET}["']?[ \t]*([=:])[ \t]*)("[^"\n]*"|'[^'\n]*'|[^\s"',;}}\])]+)""", re.I)
_SHAPES = (
    (re.compile(r"(\b[a-z][\w+.-]*://)[^\s/@\"']+@", re.I), r"\1HIDDEN@"),  # user:password@ of a URL
    (re.compile(r"\b(?:gh[a-z]_|github_pat_|glpat-|hf_|sk-|xox[a-z]-|AKIA)[\w-]{12,}"), "HIDDEN"),
)


def without_secrets(text: str) -> str:
    """A text without the values of variables of the environment that go by the name of a secret, and what looks so."""
    for name, value in os.environ.items():
        if len(value) > 5 and re.search(rf"{_SECRET}|key$|auth", name, re.I):
            text = text.replace(value, "HIDDEN")
    text = _NAMED.sub(_without_value, text)
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


def _without_value(found: re.Match[str]) -> str:
    """What stands behind a name, hidden unless it is a number, a truth value, a table or a word of a sentence."""
    head, sign, value = found.groups()
    bare = value.strip("\"'")
    is_plain = re.fullmatch(r"[-+\d._eE]*|true|false|null|none|\?\?\?", bare, re.I) or bare[:1] in "{["
    return found[0] if is_plain or (sign == ":" and bare == value and len(bare) < 8) else f"{head}HIDDEN"


def provenance(device: str, source: Path = Path(__file__).parent) -> dict[str, Any]:
    """JSON that says what made a result; `device` is told by the caller, `source` is the folder of the code that ran.

    `git` is None where the code is not in a git checkout or there is no git.
    """
    return {
        "git": _git_state(source),
        "versions": {"python": platform.python_version()} | _versions(),
        "device": device,
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "argv": [without_secrets(word) for word in sys.argv],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_state(source: Path) -> dict[str, Any] | None:
    # an installed copy inside somebody's checkout is not that checkout's code
    if _git(source, "ls-files", "--error-unmatch", ".") is None:
        return None
    commit, diff = _git(source, "rev-parse", "HEAD"), _git(source, "diff", "--no-ext-diff", "HEAD")
    if commit is None or diff is None:
        return None
    diff = without_secrets(diff)
    untracked = _git(source, "ls-files", "--others", "--exclude-standard") or ""
    if len(diff) > DIFF_LIMIT:
        diff = f"{diff[:DIFF_LIMIT]}\n… {len(diff) - DIFF_LIMIT} more characters\n"
    return {"commit": commit.strip(), "diff": diff, "untracked": untracked.splitlines()}


def _git(source: Path, *arguments: str) -> str | None:
    """The output of a git command; None if it fails, is too slow, or there is no git."""
    # jobs of a sweep ask at the same time, and `git diff` would otherwise lock the index to refresh it
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(source), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
