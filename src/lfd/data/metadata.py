"""The metadata of a dataset: counts, statistics, a hash of the content, and an audit for suspicious data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import gymnasium as gym
import numpy as np

from lfd.data.layout import ColumnLayout
from lfd.envs.spaces import Array, Spaces

METADATA_FILE = "metadata.json"  # beside the dataset's HDF5 file
# The episode index: one row an episode, in the order of collection. `return` is the whole episode's, a dropped last
# reward included; `final_known` is True if the final observation was recorded.
EPISODE_INDEX_DTYPE = np.dtype(
    [("length", "<i8"), ("return", "<f8"), ("terminated", "?"), ("truncated", "?"), ("final_known", "?")],
)
_BLOCK_BYTES = 16 << 20
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Fibonacci hashing


class _ColumnScan(NamedTuple):
    nonfinite: int  # rows with a NaN or an infinity
    low: Array  # [...] the smallest value of each dimension
    high: Array  # [...]
    out_of_bounds: int  # rows beyond the bounds of the action space
    hashes: Array  # [N] uint64 hash of each row; [0] for columns that duplicates do not depend on


def compute_metadata(
    path: Path, columns: dict[str, ColumnLayout], spaces: Spaces, stack: int, episode_index: Array
) -> dict[str, Any]:
    """The computed part of a dataset's metadata, in one pass over the columns and with 16 MiB of memory for rows.

    `episode_index` is an array [E] of EPISODE_INDEX_DTYPE. `sha256` is over names, dtypes, shapes and bytes of all
    columns in name order, not over HDF5's own bytes.
    """
    digest, scans, is_end = hashlib.sha256(), {}, np.zeros(columns["rewards"].shape[0], bool)
    with path.open("rb") as file:
        for name, column in columns.items():
            digest.update(_column_header(name, column))
            scans[name] = _scan_column(file, name, column, spaces, digest)
        for name in ("terminals", "timeouts"):
            is_end |= np.concatenate(list(_read_blocks(file, columns[name])))
    terminated = episode_index["terminated"]
    truncated = episode_index["truncated"] & ~terminated
    return {
        "spaces": spaces.to_json(),
        "stack": stack,
        "transitions": int(episode_index["length"].sum()),
        "episodes": len(episode_index),
        "sha256": digest.hexdigest(),
        "columns": column_schema(columns),
        "returns": _summary(episode_index["return"]),
        "lengths": _summary(episode_index["length"]),
        "ends": {
            "terminated": int(terminated.sum()),
            "truncated": int(truncated.sum()),
            "cut": int((~terminated & ~truncated).sum()),
        },
        "audit": _audit(scans, columns, episode_index, stack) | {"crosses_reset": _inner_ends(is_end, episode_index)},
    }


def content_sha256(path: Path, columns: dict[str, ColumnLayout]) -> str:
    """The `sha256` that `compute_metadata` would return, from one read of the file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for name, column in columns.items():
            digest.update(_column_header(name, column))
            for block in _read_blocks(file, column):
                digest.update(block.data)
    return digest.hexdigest()


def column_schema(columns: dict[str, ColumnLayout]) -> dict[str, Any]:
    """`columns` of the metadata: dtype and shape of a row of each column."""
    return {name: {"dtype": column.dtype.name, "shape": list(column.shape[1:])} for name, column in columns.items()}


def _column_header(name: str, column: ColumnLayout) -> bytes:
    return f"{name} {column.dtype.str} {column.shape}\n".encode()


def _audit(
    scans: dict[str, _ColumnScan], columns: dict[str, ColumnLayout], episode_index: Array, stack: int
) -> dict[str, Any]:
    audited = (name for name in scans if name.startswith(("observations", "actions", "infos")))
    constant = {name: _constant_dimensions(scans[name], columns[name]) for name in audited}
    return {
        "nonfinite": {name: scan.nonfinite for name, scan in scans.items() if scan.nonfinite},
        "constant": {name: dimensions for name, dimensions in constant.items() if dimensions},
        "duplicates": _duplicate_share({name: scan.hashes for name, scan in scans.items()}, episode_index, stack),
        "actions_out_of_bounds": scans["actions"].out_of_bounds,
        "final_observation_unknown": int((~episode_index["final_known"]).sum()),
    }


def _inner_ends(is_end: Array, episode_index: Array) -> int:
    """Number of transitions flagged as an end (`is_end` [N]) that are not the last of their episode."""
    inner = is_end.copy()
    inner[np.cumsum(episode_index["length"]) - 1] = False
    return int(inner.sum())


def _read_blocks(file: BinaryIO, column: ColumnLayout) -> Iterator[Array]:
    # Read, not memory-mapped: mapped pages would count as this process's memory.
    rows = max(1, _BLOCK_BYTES // max(1, column.row_bytes))
    file.seek(column.offset)
    for start in range(0, column.shape[0], rows):
        count = min(rows, column.shape[0] - start)
        raw = np.frombuffer(file.read(count * column.row_bytes), column.dtype)
        yield raw.reshape(count, *column.shape[1:])


def _scan_column(file: BinaryIO, name: str, column: ColumnLayout, spaces: Spaces, digest: Any) -> _ColumnScan:
    needs_hashes = name.startswith(("observations", "final/", "actions", "rewards"))
    lows, highs, hashes, nonfinite, out_of_bounds = [], [], [], 0, 0
    for block in _read_blocks(file, column):
        digest.update(block.data)
        if block.dtype.kind == "f":
            finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            nonfinite += int((~finite).sum())
        if name == "actions":
            out_of_bounds += int(_is_out_of_bounds(block, spaces.action).sum())
        lows.append(block.min(axis=0))
        highs.append(block.max(axis=0))
        if needs_hashes:
            hashes.append(_hash_rows(block))
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    row_hashes = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    return _ColumnScan(nonfinite, low, high, out_of_bounds, row_hashes)


def _is_out_of_bounds(actions: Array, space: gym.Space[Any]) -> Array:
    if isinstance(space, gym.spaces.Discrete):
        return np.asarray((actions < space.start) | (actions >= space.start + space.n))
    assert isinstance(space, gym.spaces.Box)
    return np.asarray(((actions < space.low) | (actions > space.high)).any(axis=1))


def _constant_dimensions(scan: _ColumnScan, column: ColumnLayout) -> list[int] | str | None:
    """Indices of the constant dimensions of a vector, or "all"; arrays of more axes are constant as a whole or not."""
    if column.shape[0] < 2:
        return None
    is_constant = np.atleast_1d(scan.low == scan.high)
    if is_constant.all():
        return "all"
    return np.flatnonzero(is_constant).tolist() if is_constant.ndim == 1 else None


def _hash_rows(block: Array) -> Array:
    raw, size = block.tobytes(), block.nbytes // len(block)
    signed = np.fromiter((hash(raw[i : i + size]) for i in range(0, len(raw), size)), np.int64, len(block))
    return signed.view(np.uint64)


def _duplicate_share(hashes: dict[str, Array], episode_index: Array, stack: int) -> float:
    """Share of transitions (observation, action, reward, next observation) that repeat an earlier one."""
    ends = np.cumsum(episode_index["length"])
    starts = ends - episode_index["length"]
    observation = _combine_hashes([h for name, h in hashes.items() if name.startswith("observations")])
    final = _combine_hashes([h for name, h in hashes.items() if name.startswith("final/")])
    next_observation = np.append(observation[1:], observation[:1])
    next_observation[ends - 1] = final
    row = np.arange(len(observation))
    start = np.repeat(starts, episode_index["length"])
    frames = [observation[np.maximum(row - back, start)] for back in range(stack)]
    transitions = _combine_hashes([*frames, next_observation, hashes["actions"], hashes["rewards"]])
    return 1 - len(np.unique(transitions)) / len(transitions)


def _combine_hashes(columns: list[Array]) -> Array:
    """[N] one hash a row of several columns of hashes, [N] each."""
    combined = np.zeros_like(columns[0])
    for column in columns:
        combined = (combined ^ (combined >> np.uint64(29))) * _HASH_MULTIPLIER + column
    return combined


def _summary(values: Array) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }
