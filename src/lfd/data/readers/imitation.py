"""imitation's trajectories: a folder of Hugging Face's `datasets` (often named `*.npz`), one row a trajectory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lfd.data.episode import Episode
from lfd.data.readers.flat import end_reasons
from lfd.envs.spaces import Array
from lfd.errors import UserError

_REQUIRED = ("obs", "acts", "terminal")
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # the last bytes of an Arrow stream


def arrow_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote, in order; empty for a folder of another format.

    Raises:
        UserError: the folder's list of files is damaged, or names a file that is missing.
    """
    state = folder / "state.json"
    if not (state.is_file() and (folder / "dataset_info.json").is_file()):
        return []
    try:
        names = [Path(entry["filename"]).name for entry in json.loads(state.read_text())["_data_files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"data: {state}: expected _data_files with a filename each, got a damaged file ({error}); copy it again"
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise UserError(
            f"data: {folder}: expected the files that {state.name} lists, got no {', '.join(missing) or 'files'}; "
            "copy it whole"
        )
    return [folder / name for name in names]


def read_imitation(folder: Path, files: list[Path], max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of a folder's `files`, with rewards of 0 if it has none. `infos` are encoded objects and not read.

    A time limit sets `terminal` too: `max_episode_steps` separates it from terminations; without it, episodes were cut.

    Raises:
        UserError: pyarrow is not installed, a file is damaged, or a column is missing or holds anything but numbers.
    """
    if find_spec("pyarrow") is None:
        raise UserError(f'data: {folder}: Arrow files need pyarrow, which is not installed: pip install -e ".[arrow]"')
    for file in files:
        for row in _read_rows(file):
            ends = np.array([len(row["acts"])])
            terminated, truncated = end_reasons(ends, max_episode_steps, default_terminated=False)
            ended = bool(row["terminal"])
            yield Episode(
                observations=row["obs"],
                actions=row["acts"],
                rewards=row["rews"].astype(np.float32),
                terminated=bool(terminated[0]) and ended,
                truncated=bool(truncated[0]) and ended,
            )


def _read_rows(file: Path) -> Iterator[dict[str, Array]]:
    """The trajectories of a file, each a dict of arrays."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            names = _column_names(file, stream.schema.names)
            for batch in stream:
                for index in range(len(batch)):
                    row = {name: _array(file, name, batch.column(name).slice(index, 1)) for name in names}
                    yield row if "rews" in row else row | {"rews": np.zeros(len(row["acts"]))}
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"data: {file} is damaged: {error}; copy it again") from error
    with file.open("rb") as raw:
        raw.seek(-len(_END_OF_STREAM), 2)
        if raw.read() != _END_OF_STREAM:
            raise UserError(f"data: {file} is damaged: it breaks off between two trajectories; copy it again")


def _column_names(file: Path, stored: list[str]) -> list[str]:
    """The columns to read, out of those that are stored."""
    missing = [name for name in _REQUIRED if name not in stored]
    if missing:
        raise UserError(
            f"data: {file} has no {', '.join(missing)}: expected obs, acts, terminal, infos and mostly rews, as "
            f"imitation writes them, got {', '.join(stored) or 'no columns'}; save the trajectories with imitation"
        )
    return [*_REQUIRED, "rews"] if "rews" in stored else [*_REQUIRED]


def _array(file: Path, name: str, values: Any) -> Array:
    """One value of a column as an array; nested lists are axes."""
    import pyarrow as pa

    shape = []
    while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lengths = set(values.value_lengths().to_pylist())
        if len(lengths) > 1 or None in lengths:
            raise UserError(
                f"data: {file}: {name}: expected an array, got lists of different lengths in one trajectory; correct it"
            )
        shape.append(lengths.pop() if lengths else 0)
        values = values.flatten()
    kind = values.type
    if values.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise UserError(
            f"data: {file}: {name}: expected numbers, got {kind} values (dicts, text, objects or gaps); "
            "write it as an array of numbers"
        )
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array
