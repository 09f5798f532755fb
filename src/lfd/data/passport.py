"""What a dataset says about itself: counts, a hash of its content, and an audit of what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import gymnasium as gym
import numpy as np

from lfd.data.episode import Array
from lfd.data.layout import Column
from lfd.envs.spaces import Spaces

# One row an episode, in the order of collection. `return` is the whole episode's, a dropped last reward included;
# `complete`: its final observation was known.
LEDGER = np.dtype(
    [("length", "<i8"), ("return", "<f8"), ("terminated", "?"), ("truncated", "?"), ("complete", "?")],
)
_BLOCK_BYTES = 16 << 20
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Fibonacci hashing


class _Scan(NamedTuple):
    nonfinite: int  # rows with a NaN or an infinity
    low: Array  # per dimension
    high: Array
    out_of_bounds: int
    hashes: Array  # uint64 a row; empty where no hash is needed


def examine(path: Path, columns: dict[str, Column], spaces: Spaces, stack: int, ledger: Array) -> dict[str, Any]:
    """The computed part of a passport, in one pass over the columns and in little memory.

    `sha256` is over names, dtypes, shapes and bytes of all columns in name order, not over HDF5's own bytes.
    """
    digest, scans, flagged = hashlib.sha256(), {}, np.zeros(columns["rewards"].shape[0], bool)
    with path.open("rb") as file:
        for name, column in columns.items():
            digest.update(_heading(name, column))
            scans[name] = _scan(file, name, column, spaces, digest)
        for name in ("terminals", "timeouts"):
            flagged |= np.concatenate(list(_blocks(file, columns[name])))
    terminated = ledger["terminated"]
    truncated = ledger["truncated"] & ~terminated
    return {
        "spaces": spaces.to_json(),
        "stack": stack,
        "transitions": int(ledger["length"].sum()),
        "episodes": len(ledger),
        "sha256": digest.hexdigest(),
        "columns": described(columns),
        "returns": _summary(ledger["return"]),
        "lengths": _summary(ledger["length"]),
        "ends": {
            "terminated": int(terminated.sum()),
            "truncated": int(truncated.sum()),
            "cut": int((~terminated & ~truncated).sum()),
        },
        "audit": _audit(scans, columns, ledger, stack) | {"crosses_reset": _crossing(flagged, ledger)},
    }


def content_sha256(path: Path, columns: dict[str, Column]) -> str:
    """`sha256` of the passport that `examine` would make."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for name, column in columns.items():
            digest.update(_heading(name, column))
            for block in _blocks(file, column):
                digest.update(block.data)
    return digest.hexdigest()


def described(columns: dict[str, Column]) -> dict[str, Any]:
    """`columns` of the passport: type and shape of a row."""
    return {name: {"dtype": column.dtype.name, "shape": list(column.shape[1:])} for name, column in columns.items()}


def _heading(name: str, column: Column) -> bytes:
    return f"{name} {column.dtype.str} {column.shape}\n".encode()


def _audit(scans: dict[str, _Scan], columns: dict[str, Column], ledger: Array, stack: int) -> dict[str, Any]:
    constant = {name: _constant(scan, columns[name]) for name, scan in scans.items() if _is_data(name)}
    return {
        "nonfinite": {name: scan.nonfinite for name, scan in scans.items() if scan.nonfinite},
        "constant": {name: where for name, where in constant.items() if where},
        "duplicates": _duplicates({name: scan.hashes for name, scan in scans.items()}, ledger, stack),
        "actions_out_of_bounds": scans["actions"].out_of_bounds,
        "final_observation_unknown": int((~ledger["complete"]).sum()),
    }


def _crossing(flagged: Array, ledger: Array) -> int:
    """Transitions that say their episode ended although the same episode goes on in the next row."""
    inside = flagged.copy()
    inside[np.cumsum(ledger["length"]) - 1] = False
    return int(inside.sum())


def _is_data(name: str) -> bool:
    return name.startswith(("observations", "actions", "infos"))


def _blocks(file: BinaryIO, column: Column) -> Iterator[Array]:
    # Plain reads, not a map: mapped pages would count as this process's memory.
    rows = max(1, _BLOCK_BYTES // max(1, column.row_bytes))
    file.seek(column.offset)
    for start in range(0, column.shape[0], rows):
        count = min(rows, column.shape[0] - start)
        raw = np.frombuffer(file.read(count * column.row_bytes), column.dtype)
        yield raw.reshape(count, *column.shape[1:])


def _scan(file: BinaryIO, name: str, column: Column, spaces: Spaces, digest: Any) -> _Scan:
    hashed = name.startswith(("observations", "final/", "actions", "rewards"))
    lows, highs, hashes, nonfinite, outside = [], [], [], 0, 0
    for block in _blocks(file, column):
        digest.update(block.data)
        if block.dtype.kind == "f":
            finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            nonfinite += int((~finite).sum())
        if name == "actions":
            outside += int(_outside(block, spaces.action).sum())
        lows.append(block.min(axis=0))
        highs.append(block.max(axis=0))
        if hashed:
            hashes.append(_row_hashes(block))
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    return _Scan(nonfinite, low, high, outside, np.concatenate(hashes) if hashes else np.empty(0, np.uint64))


def _outside(actions: Array, space: gym.Space[Any]) -> Array:
    if isinstance(space, gym.spaces.Discrete):
        return np.asarray((actions < space.start) | (actions >= space.start + space.n))
    assert isinstance(space, gym.spaces.Box)
    return np.asarray(((actions < space.low) | (actions > space.high)).any(axis=1))


def _constant(scan: _Scan, column: Column) -> list[int] | str | None:
    """Constant dimensions of a vector by index; of anything larger only whether all of it is."""
    if column.shape[0] < 2:
        return None
    same = np.atleast_1d(scan.low == scan.high)
    if same.all():
        return "all"
    return np.flatnonzero(same).tolist() if same.ndim == 1 else None


def _row_hashes(block: Array) -> Array:
    raw, size = block.tobytes(), block.nbytes // len(block)
    signed = np.fromiter((hash(raw[i : i + size]) for i in range(0, len(raw), size)), np.int64, len(block))
    return signed.view(np.uint64)


def _duplicates(hashes: dict[str, Array], ledger: Array, stack: int) -> float:
    """Share of transitions (what is seen, done, earned and seen next) that repeat an earlier one."""
    ends = np.cumsum(ledger["length"])
    starts = ends - ledger["length"]
    seen = _combined([h for name, h in hashes.items() if name.startswith("observations")])
    final = _combined([h for name, h in hashes.items() if name.startswith("final/")])
    successor = np.append(seen[1:], seen[:1])
    successor[ends - 1] = final
    row = np.arange(len(seen))
    start = np.repeat(starts, ledger["length"])
    parts = [seen[np.maximum(row - back, start)] for back in range(stack)]
    transitions = _combined([*parts, successor, hashes["actions"], hashes["rewards"]])
    return 1 - len(np.unique(transitions)) / len(transitions)


def _combined(parts: list[Array]) -> Array:
    total = np.zeros_like(parts[0])
    for part in parts:
        total = (total ^ (total >> np.uint64(29))) * _MIX + part
    return total


def _summary(values: Array) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }
