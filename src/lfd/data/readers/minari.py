"""Minari's directory form with HDF5 storage (0.5 and the older files without metadata.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from lfd.data.episode import Array, Episode, unflatten
from lfd.data.readers.hdf5 import NUMBERS, numeric, plain
from lfd.envs.spaces import flatten
from lfd.errors import Refused, nearest


def main_file(folder: Path) -> Path | None:
    """The HDF5 file of a Minari dataset, given its folder or its `data` folder; None if this is no Minari dataset.

    Raises:
        Refused: the dataset is stored as Arrow or Parquet.
    """
    for data in (folder / "data", folder):
        metadata = data / "metadata.json"
        if metadata.is_file():
            form = json.loads(metadata.read_text()).get("data_format", "hdf5")
            if form != "hdf5":
                raise Refused(f"data: {folder} stores its episodes as {form}; only Minari's hdf5 is read")
        if (data / "main_data.hdf5").is_file():
            return data / "main_data.hdf5"
    return None


def read_minari(path: Path, file: h5py.File, keys: list[str] | None) -> Iterator[Episode]:
    """Episodes of an open `main_data.hdf5` in order of their ids.

    `keys`: the observation keys wanted of a dict observation, flattened as an environment's are; None for all.

    Raises:
        Refused: actions are not one array, or a wanted column holds text or compressed images.
    """
    names = sorted(
        (name for name in file if name.startswith("episode_")), key=lambda name: int(name.removeprefix("episode_"))
    )
    for name in names:
        group = file[name]
        actions = plain(path, group, "actions")[:]
        yield Episode(
            observations=unflatten(_observations(path, group, keys)),
            actions=actions,
            rewards=np.asarray(plain(path, group, "rewards")[:], np.float32).reshape(-1),
            terminated=bool(plain(path, group, "terminations")[-1]),
            truncated=bool(plain(path, group, "truncations")[-1]),
            infos=_infos(group, len(actions)),
        )


def _observations(path: Path, episode: h5py.Group, keys: list[str] | None) -> dict[str, Array]:
    if not isinstance(episode.get("observations"), h5py.Group):
        return {"observations": plain(path, episode, "observations")[:]}
    found = flatten(episode["observations"])
    missing = [key for key in keys or () if key not in found]
    if missing:
        raise Refused(f"data: {path} has no observation {missing[0]!r}; {nearest(missing[0], found)}")
    wanted = found if keys is None else keys
    return {f"observations/{key}": numeric(path, f"observations/{key}", found[key])[:] for key in wanted}


def _infos(episode: h5py.Group, steps: int) -> dict[str, Array]:
    if not isinstance(episode.get("infos"), h5py.Group):
        return {}
    infos: dict[str, Array] = {}
    for name, column in flatten(episode["infos"]).items():
        # Newer collectors put the info of the reset first: one row more than there are steps.
        if column.dtype.kind in NUMBERS and column.shape[:1] in ((steps,), (steps + 1,)):
            infos[name] = column[-steps:]
    return infos
