"""Minari's folders with HDF5 storage (version 0.5, and older files without metadata.json)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np

from lfd.data.episode import Episode, ObservationArrays
from lfd.data.readers.flat import check_file_memory, check_same_length, parse_flags
from lfd.data.readers.hdf5 import NUMERIC_KINDS, check_not_external, check_numeric, get_member, numeric_column
from lfd.envs.spaces import Array, Spaces, flatten_observation, simplify_spaces
from lfd.errors import UserError, suggest

_MAX_DISCRETE = 1 << 20  # numbers of a Discrete space: each is an input or an output of a network
_JPEG_MAGIC = b"\xff\xd8\xff"  # the first bytes of a JPEG


def minari_file(folder: Path) -> Path | None:
    """The HDF5 file of a Minari dataset, given its folder or its `data` folder; None for folders of another format.

    Raises:
        UserError: the dataset is stored as Arrow or Parquet.
    """
    for data in (folder / "data", folder):
        metadata = data / "metadata.json"
        if metadata.is_file():
            storage = _load_metadata(metadata).get("data_format", "hdf5")
            if storage != "hdf5":
                raise UserError(
                    f"data: {folder}: expected episodes stored as hdf5, got {storage}; "
                    'make it again with data_format="hdf5"'
                )
        if (data / "main_data.hdf5").is_file():
            return data / "main_data.hdf5"
    return None


def minari_spaces(path: Path, file: h5py.File) -> tuple[Spaces, int] | None:
    """The spaces that the metadata of an open `main_data.hdf5` declare, and the smallest discrete action in the file.

    The Discrete spaces that are returned count from 0, as the values of `read_minari` do. None if the metadata declare
    no spaces.

    Raises:
        UserError: the metadata are damaged, or declare spaces that no algorithm supports.
    """
    declared = _declared_spaces(path, file)
    if declared is None:
        return None
    observation, action = (_count_from_zero(space) for space in declared)
    return simplify_spaces(observation, action, f"data: {path}"), _first_values(declared[1]) or 0


def read_minari(path: Path, file: h5py.File, keys: list[str] | None) -> Iterator[Episode]:
    """Episodes of an open `main_data.hdf5` in order of their ids; values of Discrete spaces are shifted to start at 0.

    `keys` are the keys to read of dict observations, flattened as an environment's are; None reads all.

    Raises:
        UserError: actions are not one array, lengths disagree, an image is damaged, or a column of `keys` holds text.
    """
    declared = _declared_spaces(path, file)
    first_observation, first_action = (_first_values(space) for space in declared) if declared else (0, 0)
    ids = sorted(int(name[8:]) for name in file if name.startswith("episode_") and name[8:].isdigit())
    for number in ids:
        group = get_member(path, file, f"episode_{number}")
        if not isinstance(group, h5py.Group):
            raise UserError(
                f"data: {path}: episode_{number}: expected a group, as Minari writes it, got an array; write it so"
            )
        flags = ("terminations", "truncations")
        columns = {
            name: numeric_column(path, group, name, name not in flags) for name in ("actions", "rewards", *flags)
        }
        check_same_length(path, {f"episode_{number}/{name}": column for name, column in columns.items()})
        check_file_memory(path, columns["actions"].nbytes)
        terminated, truncated = (parse_flags(path, f"episode_{number}/{name}", columns[name])[-1] for name in flags)
        yield Episode(
            observations=_read_observations(path, group, keys, first_observation),
            actions=columns["actions"][:] - first_action if first_action else columns["actions"][:],
            rewards=columns["rewards"][:],
            terminated=bool(terminated),
            truncated=bool(truncated),
            infos=_read_infos(group, len(columns["actions"])),
        )


def _load_metadata(metadata: Path) -> dict[str, Any]:
    try:
        content = json.loads(metadata.read_bytes())
    except ValueError as error:
        raise UserError(
            f"data: {metadata}: expected JSON, as Minari writes it, got a damaged file ({error}); copy it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"data: {metadata}: expected an object, as Minari writes it, got {type(content).__name__}; copy it again"
        )
    return content


def _declared_spaces(path: Path, file: h5py.File) -> tuple[gym.Space[Any], gym.Space[Any]] | None:
    """The spaces of observations and actions in metadata.json, or in the file itself (before version 0.5)."""
    metadata = path.with_name("metadata.json")
    content: Mapping[str, Any] = _load_metadata(metadata) if metadata.is_file() else dict(file.attrs)
    if not {"observation_space", "action_space"} <= content.keys():
        return None
    try:
        first, second = (_parse_space(json.loads(content[name])) for name in ("observation_space", "action_space"))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"data: {metadata if metadata.is_file() else path}: expected an observation_space and an action_space, as "
            f"Minari writes them, got damaged ones ({error!r}); copy the file again"
        ) from error
    return first, second


def _parse_space(description: Mapping[str, Any]) -> gym.Space[Any]:
    """A space as Minari serializes it; a Tuple becomes a Dict of "0", "1", …."""
    match description["type"]:
        case "Box":
            dtype: Any = np.dtype(description["dtype"])
            low, high = (np.array(description[bound], dtype) for bound in ("low", "high"))
            return gym.spaces.Box(low, high, tuple(description["shape"]), dtype.type)
        case "Discrete":
            if (count := int(description["n"])) > _MAX_DISCRETE:
                raise ValueError(f"a Discrete of {count:,}")
            return gym.spaces.Discrete(count, start=int(description["start"]))
        case "Dict":
            return gym.spaces.Dict({key: _parse_space(part) for key, part in description["subspaces"].items()})
        case "Tuple":
            return gym.spaces.Dict({str(i): _parse_space(part) for i, part in enumerate(description["subspaces"])})
        case "MultiDiscrete":
            sizes = np.array(description["nvec"])
            if (count := int(sizes.sum())) > _MAX_DISCRETE:
                raise ValueError(f"a MultiDiscrete of {count:,}")
            return gym.spaces.MultiDiscrete(sizes, start=np.broadcast_to(description.get("start", 0), sizes.shape))
        case "MultiBinary":
            return gym.spaces.MultiBinary(description["n"])
        case "Text":
            return gym.spaces.Text(int(description["max_length"]))
    raise ValueError(f"there is no space {description['type']!r}")


def _first_values(space: gym.Space[Any]) -> Any:
    """The smallest value of a Discrete space, 0 for other spaces; of a Dict, that of each part."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _first_values(part) for key, part in space.spaces.items()}
    return int(space.start) if isinstance(space, gym.spaces.Discrete) else 0


def _count_from_zero(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space with Discrete parts that start at 0."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict({key: _count_from_zero(part) for key, part in space.spaces.items()})
    return gym.spaces.Discrete(int(space.n)) if isinstance(space, gym.spaces.Discrete) else space


def _read_observations(path: Path, episode: h5py.Group, keys: list[str] | None, first_values: Any) -> ObservationArrays:
    item = get_member(path, episode, "observations")
    if not isinstance(item, h5py.Group):
        first = first_values if isinstance(first_values, int) else 0
        return _read_column(path, f"{episode.name}/observations", item, first)
    stored = flatten_observation(_named_parts(item))
    firsts = flatten_observation(first_values) if isinstance(first_values, dict) else {}
    missing = [key for key in keys or () if key not in stored]
    if missing:
        raise UserError(f"data: {path} has no observation {missing[0]!r}; {suggest(missing[0], stored)}")
    names = stored if keys is None else keys
    return {key: _read_column(path, f"observations/{key}", stored[key], firsts.get(key, 0)) for key in names}


def _named_parts(group: h5py.Group) -> dict[str, Any]:
    """The arrays of a group by name; the parts of a Tuple, which Minari stores as `_index_0`, …, are "0", …."""
    parts = ((name.removeprefix("_index_"), item) for name, item in group.items())
    return {name: _named_parts(item) if isinstance(item, h5py.Group) else item for name, item in parts}


def _read_column(path: Path, name: str, item: h5py.Dataset, first_value: int) -> Array:
    """A column of an episode, less `first_value`; JPEGs, one a row, in which Minari stores images, are decoded."""
    check_file_memory(path, item.nbytes)
    if item.dtype.kind == "O" and h5py.check_vlen_dtype(item.dtype) == np.uint8:
        check_not_external(path, name, item)
        return _decode_images(path, name, item[:])
    rows: Array = check_numeric(path, name, item)[:]
    # Minari stores JPEGs that happen to be equally long as a plain matrix.
    is_matrix = rows.dtype == np.uint8 and rows.ndim == 2 and rows.shape[1] > len(_JPEG_MAGIC)
    if is_matrix and len(rows) and (rows[:, : len(_JPEG_MAGIC)] == np.frombuffer(_JPEG_MAGIC, np.uint8)).all():
        return _decode_images(path, name, rows)
    return rows - first_value if first_value else rows


def _decode_images(path: Path, name: str, rows: Array) -> Array:
    from PIL import Image

    images = []
    for index, row in enumerate(rows):
        try:
            images.append(np.asarray(Image.open(io.BytesIO(row.tobytes()), formats=["JPEG"])))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"data: {path}: {name} of row {index}: expected a JPEG image, got a damaged one ({error}); copy the "
                "file again"
            ) from error
        if images[-1].shape != images[0].shape:
            raise UserError(
                f"data: {path}: {name} of row {index}: expected an image of {images[0].shape}, as in earlier rows, got "
                f"{images[-1].shape}; scale the images to one shape"
            )
    return np.stack(images)


def _read_infos(episode: h5py.Group, steps: int) -> dict[str, Array]:
    if not isinstance(episode.get("infos"), h5py.Group):
        return {}
    infos: dict[str, Array] = {}
    for name, column in flatten_observation(episode["infos"]).items():
        # Newer collectors put the info of the reset first: one row more than there are steps.
        if column.dtype.kind in NUMERIC_KINDS and column.shape[:1] in ((steps,), (steps + 1,)):
            infos[name] = column[-steps:]
    return infos
