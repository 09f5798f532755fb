"""imitation's trajectories: a folder of Hugging Face's `datasets` (often called `*.npz`), one trajectory a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lfd.data.episode import Array, Episode
from lfd.data.readers.flat import reasons
from lfd.errors import Refused

_REQUIRED = ("obs", "acts", "terminal")
_LAST_BYTES = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # an Arrow stream's end of stream


def arrow_files(folder: Path) -> list[Path]:
    """The files of a folder that `Dataset.save_to_disk` wrote, in their order; none if it is of another form.

    Raises:
        Refused: its list of files is damaged, or names one that is not there.
    """
    listed = folder / "state.json"
    if not (listed.is_file() and (folder / "dataset_info.json").is_file()):
        return []
    try:
        names = [Path(row["filename"]).name for row in json.loads(listed.read_text())["_data_files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"data: {listed} is damaged ({error}); expected _data_files with a filename each") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise Refused(
            f"data: {folder} has no {', '.join(missing) or 'files'}, which {listed.name} lists; copy it whole"
        )
    return [folder / name for name in names]


def read_imitation(folder: Path, files: list[Path], max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of a folder, with rewards of 0 where it has none. `infos` are encoded objects that nobody looks at.

    `terminal` is set at time limits too: `max_episode_steps` tells why an episode ended, else it was cut.

    Raises:
        Refused: pyarrow is not installed, a file is damaged, or a column is missing or holds anything but numbers.
    """
    if find_spec("pyarrow") is None:
        raise Refused(f'data: {folder} is stored as Arrow, which needs pyarrow: pip install -e ".[arrow]"')
    for file in files:
        for row in _rows(file):
            terminated, truncated = reasons(np.array([len(row["acts"])]), max_episode_steps, otherwise=False)
            ended = bool(row["terminal"])
            yield Episode(
                observations=row["obs"],
                actions=row["acts"],
                rewards=row["rews"].astype(np.float32),
                terminated=bool(terminated[0]) and ended,
                truncated=bool(truncated[0]) and ended,
            )


def _rows(file: Path) -> Iterator[dict[str, Array]]:
    """One trajectory after the other, each column an array of its own."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            names = _names(file, stream.schema.names)
            for batch in stream:
                for index in range(len(batch)):
                    row = {name: _array(file, name, batch.column(name).slice(index, 1)) for name in names}
                    yield row if "rews" in row else row | {"rews": np.zeros(len(row["acts"]))}
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"data: {file} is damaged: {error}") from error
    with file.open("rb") as raw:
        raw.seek(-len(_LAST_BYTES), 2)
        if raw.read() != _LAST_BYTES:
            raise Refused(f"data: {file} is damaged: it breaks off between two trajectories")


def _names(file: Path, found: list[str]) -> list[str]:
    """The columns to read."""
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise Refused(
            f"data: {file} has no {', '.join(missing)}; it has {', '.join(found) or 'no columns'}, and imitation's "
            "trajectories are obs, acts, terminal, infos and mostly rews"
        )
    return [*_REQUIRED, "rews"] if "rews" in found else [*_REQUIRED]


def _array(file: Path, name: str, values: Any) -> Array:
    """One value of a column, nested lists as axes."""
    import pyarrow as pa

    shape = []
    while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lengths = set(values.value_lengths().to_pylist())
        if len(lengths) > 1 or None in lengths:
            raise Refused(f"data: {file}: {name} has lists of different lengths in one trajectory; expected an array")
        shape.append(lengths.pop() if lengths else 0)
        values = values.flatten()
    kind = values.type
    if values.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise Refused(f"data: {file}: {name} holds {kind} values (dicts, text, objects or gaps), not numbers")
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array
