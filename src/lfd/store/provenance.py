"""The provenance of a result: code, versions, machine, command and time. It is never part of a key."""

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


# Names of secrets in the environment, on a command line or in code.
_SECRET = r"[\w.-]*(?:secret|token|passw|credential|api_?key|access_?key|private_?key)[\w.-]*"
_NAMED_VALUE = re.compile(rf"""({_SECRET}["']?[ \t]*([=:])[ \t]*)("[^"\n]*"|'[^'\n]*'|[^\s"',;}}\])]+)""", re.I)
_SECRET_SHAPES = (
    (re.compile(r"(\b[a-z][\w+.-]*://)[^\s/@\"']+@", re.I), r"\1HIDDEN@"),  # user:password@ of a URL
    (re.compile(r"\b(?:gh[a-z]_|github_pat_|glpat-|hf_|sk-|xox[a-z]-|AKIA)[\w-]{12,}"), "HIDDEN"),
)


def without_secrets(text: str) -> str:
    """The text with HIDDEN in place of the values of secrets.

    Secrets are the values of environment variables with the name of a secret, values after such a name, and strings in
    the shape of an access token or of a URL's password.
    """
    for name, value in os.environ.items():
        if len(value) > 5 and re.search(rf"{_SECRET}|key$|auth", name, re.I):
            text = text.replace(value, "HIDDEN")
    text = _NAMED_VALUE.sub(_without_value, text)
    for shape, replacement in _SECRET_SHAPES:
        text = shape.sub(replacement, text)
    return text


def _without_value(match: re.Match[str]) -> str:
    """The match with its value hidden, unless that is a number, a truth value, a mapping or a word of a sentence."""
    head, sign, value = match.groups()
    bare = value.strip("\"'")
    is_harmless = re.fullmatch(r"[-+\d._eE]*|true|false|null|none|\?\?\?", bare, re.I) or bare[:1] in "{["
    return match[0] if is_harmless or (sign == ":" and bare == value and len(bare) < 8) else f"{head}HIDDEN"


def provenance(device: str, source: Path = Path(__file__).parents[1]) -> dict[str, Any]:
    """JSON with the code, versions, machine, command and time of a result.

    `device` is the device of the run, `source` the folder of the code. `git` is None if the code is not in a git
    checkout or git is not installed.
    """
    import torch  # here, as --help prints without it

    return {
        "git": _git_state(source),
        "versions": {"python": platform.python_version()} | _versions(),
        "device": device,
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "argv": [without_secrets(word) for word in sys.argv],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_state(source: Path) -> dict[str, Any] | None:
    # A copy of lfd that is installed inside a checkout of other code is not part of that checkout.
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
    """The output of a git command; None if it fails, takes more than 5 seconds, or git is not installed."""
    # Jobs of a sweep call git at the same time, and `git diff` would otherwise lock the index to refresh it.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(source), *arguments]
    try:
        process = subprocess.run(command, env=environment, capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.decode(errors="replace")
