"""Minari's directory form with HDF5 storage (0.5 and the older files without metadata.json)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np

from lfd.data.episode import Array, Episode, Observations
from lfd.data.readers.flat import check_memory, flags_of, same_lengths
from lfd.data.readers.hdf5 import NUMBERS, check_inside, member, numeric, plain
from lfd.envs.spaces import Spaces, flatten, simplified
from lfd.errors import Refused, nearest

_MOST = 1 << 20  # numbers of a Discrete: each is an input or an output of a network
_JPEG = b"\xff\xd8\xff"  # what each begins with


def main_file(folder: Path) -> Path | None:
    """The HDF5 file of a Minari dataset, given its folder or its `data` folder; None if this is no Minari dataset.

    Raises:
        Refused: the dataset is stored as Arrow or Parquet.
    """
    for data in (folder / "data", folder):
        metadata = data / "metadata.json"
        if metadata.is_file():
            form = _object(metadata).get("data_format", "hdf5")
            if form != "hdf5":
                raise Refused(
                    f"data: {folder} stores its episodes as {form}; only Minari's hdf5 is read: "
                    'make it again with data_format="hdf5"'
                )
        if (data / "main_data.hdf5").is_file():
            return data / "main_data.hdf5"
    return None


def told_spaces(path: Path, file: h5py.File) -> tuple[Spaces, int] | None:
    """The spaces that the metadata of an open `main_data.hdf5` name, and what their discrete actions count from.

    Here Discrete spaces count from 0, as the values that `read_minari` gives do. None where no spaces are named.

    Raises:
        Refused: the metadata are damaged, or name spaces that nothing here learns in.
    """
    found = _named(path, file)
    if found is None:
        return None
    observation, action = (_from_zero(space) for space in found)
    return simplified(observation, action, f"data: {path}"), _starts(found[1]) or 0


def read_minari(path: Path, file: h5py.File, keys: list[str] | None) -> Iterator[Episode]:
    """Episodes of an open `main_data.hdf5` in order of their ids; what its Discrete spaces count from becomes 0.

    `keys`: the observation keys wanted of a dict observation, flattened as an environment's are; None for all.

    Raises:
        Refused: actions are not one array, lengths disagree, an image is damaged, or a wanted column holds text.
    """
    named = _named(path, file)
    observed, first_action = (_starts(space) for space in named) if named else (0, 0)
    numbers = sorted(int(name[8:]) for name in file if name.startswith("episode_") and name[8:].isdigit())
    for number in numbers:
        group = member(path, file, f"episode_{number}")
        if not isinstance(group, h5py.Group):
            raise Refused(f"data: {path}: episode_{number} is not a group; expected what Minari writes")
        flags = ("terminations", "truncations")
        columns = {name: plain(path, group, name, name not in flags) for name in ("actions", "rewards", *flags)}
        same_lengths(path, {f"episode_{number}/{name}": column for name, column in columns.items()})
        check_memory(path, columns["actions"].nbytes)
        terminated, truncated = (flags_of(path, f"episode_{number}/{name}", columns[name])[-1] for name in flags)
        yield Episode(
            observations=_observations(path, group, keys, observed),
            actions=columns["actions"][:] - first_action if first_action else columns["actions"][:],
            rewards=columns["rewards"][:],
            terminated=bool(terminated),
            truncated=bool(truncated),
            infos=_infos(group, len(columns["actions"])),
        )


def _object(metadata: Path) -> dict[str, Any]:
    try:
        content = json.loads(metadata.read_bytes())
    except ValueError as error:
        raise Refused(f"data: {metadata} is damaged ({error}); expected JSON, as Minari writes it") from error
    if not isinstance(content, dict):
        raise Refused(f"data: {metadata} holds {type(content).__name__}; expected an object, as Minari writes it")
    return content


def _named(path: Path, file: h5py.File) -> tuple[gym.Space[Any], gym.Space[Any]] | None:
    """The spaces of observations and actions in metadata.json, or in the file itself (before 0.5)."""
    beside = path.parent / "metadata.json"
    content: Mapping[str, Any] = _object(beside) if beside.is_file() else dict(file.attrs)
    if not {"observation_space", "action_space"} <= content.keys():
        return None
    try:
        first, second = (_space(json.loads(content[name])) for name in ("observation_space", "action_space"))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise Refused(
            f"data: {beside if beside.is_file() else path}: observation_space or action_space is damaged ({error!r}); "
            "expected what Minari writes"
        ) from error
    return first, second


def _space(description: Mapping[str, Any]) -> gym.Space[Any]:
    """A space as Minari serialises it; Tuples are Dicts, as they are in the file."""
    match description["type"]:
        case "Box":
            dtype: Any = np.dtype(description["dtype"])
            low, high = (np.array(description[bound], dtype) for bound in ("low", "high"))
            return gym.spaces.Box(low, high, tuple(description["shape"]), dtype.type)
        case "Discrete":
            if (count := int(description["n"])) > _MOST:
                raise ValueError(f"a Discrete of {count:,}")
            return gym.spaces.Discrete(count, start=int(description["start"]))
        case "Dict":
            return gym.spaces.Dict({key: _space(part) for key, part in description["subspaces"].items()})
        case "Tuple":
            parts = enumerate(description["subspaces"])
            return gym.spaces.Dict({f"_index_{index}": _space(part) for index, part in parts})
        case "MultiDiscrete":
            return gym.spaces.MultiDiscrete(np.array(description["nvec"]))
        case "MultiBinary":
            return gym.spaces.MultiBinary(description["n"])
        case "Text":
            return gym.spaces.Text(int(description["max_length"]))
    raise ValueError(f"there is no space {description['type']!r}")


def _starts(space: gym.Space[Any]) -> Any:
    """What a space's whole numbers count from; of a Dict, that of each part."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _starts(part) for key, part in space.spaces.items()}
    return int(space.start) if isinstance(space, gym.spaces.Discrete) else 0


def _from_zero(space: gym.Space[Any]) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict({key: _from_zero(part) for key, part in space.spaces.items()})
    return gym.spaces.Discrete(int(space.n)) if isinstance(space, gym.spaces.Discrete) else space


def _observations(path: Path, episode: h5py.Group, keys: list[str] | None, starts: Any) -> Observations:
    item = member(path, episode, "observations")
    if not isinstance(item, h5py.Group):
        return _rows(path, f"{episode.name}/observations", item, starts if isinstance(starts, int) else 0)
    found, first = flatten(item), flatten(starts) if isinstance(starts, dict) else {}
    missing = [key for key in keys or () if key not in found]
    if missing:
        raise Refused(f"data: {path} has no observation {missing[0]!r}; {nearest(missing[0], found)}")
    wanted = found if keys is None else keys
    return {key: _rows(path, f"observations/{key}", found[key], first.get(key, 0)) for key in wanted}


def _rows(path: Path, name: str, item: h5py.Dataset, start: int) -> Array:
    """A column of an episode, less `start`; Minari keeps images as JPEGs, one a row, unless told not to."""
    check_memory(path, item.nbytes)
    if item.dtype.kind == "O" and h5py.check_vlen_dtype(item.dtype) == np.uint8:
        check_inside(path, name, item)
        return _images(path, name, item[:])
    rows: Array = numeric(path, name, item)[:]
    # JPEGs that happen to be equally long are rows of a plain matrix
    is_matrix = rows.dtype == np.uint8 and rows.ndim == 2 and rows.shape[1] > len(_JPEG)
    if is_matrix and len(rows) and (rows[:, : len(_JPEG)] == np.frombuffer(_JPEG, np.uint8)).all():
        return _images(path, name, rows)
    return rows - start if start else rows


def _images(path: Path, name: str, rows: Array) -> Array:
    from PIL import Image

    found = []
    for index, row in enumerate(rows):
        try:
            found.append(np.asarray(Image.open(io.BytesIO(row.tobytes()), formats=["JPEG"])))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise Refused(f"data: {path}: {name} of row {index} is no whole JPEG image ({error})") from error
        if found[-1].shape != found[0].shape:
            raise Refused(
                f"data: {path}: {name} of row {index} is an image of {found[-1].shape}; expected {found[0].shape}, as "
                "in the rows before"
            )
    return np.stack(found)


def _infos(episode: h5py.Group, steps: int) -> dict[str, Array]:
    if not isinstance(episode.get("infos"), h5py.Group):
        return {}
    infos: dict[str, Array] = {}
    for name, column in flatten(episode["infos"]).items():
        # Newer collectors put the info of the reset first: one row more than there are steps.
        if column.dtype.kind in NUMBERS and column.shape[:1] in ((steps,), (steps + 1,)):
            infos[name] = column[-steps:]
    return infos
