"""Other people's files, read as episodes. The format is found by looking; nothing in a file is ever executed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import h5py

from lfd.data.dataset import Dataset, is_own
from lfd.data.episode import Episode, conform
from lfd.data.layout import opened
from lfd.data.readers.d4rl import read_d4rl
from lfd.data.readers.di_engine import REQUIRED, read_di_engine, read_di_engine_hdf5
from lfd.data.readers.hdf5 import refuse_pickles
from lfd.data.readers.imitation import arrow_files, read_imitation
from lfd.data.readers.minari import main_file, read_minari
from lfd.data.readers.npz import read_npz
from lfd.envs.spaces import Spaces
from lfd.errors import Refused

_ACCEPTED = (
    "lfd's own HDF5, D4RL HDF5, a Minari folder, npz of stable-baselines 2, imitation's trajectories "
    "(npz or a folder), DI-engine's pickled list or HDF5"
)


def read(path: Path, spaces: Spaces | None = None, max_episode_steps: int | None = None) -> Iterator[Episode]:
    """Episodes of a file or folder in any form that is known.

    Args:
        path: A file, or a folder for Minari and imitation.
        spaces: Of the environment; with them, episodes have their shapes and dtypes.
        max_episode_steps: The environment's time limit. It tells terminations from truncations where a file only says
            that an episode ended, and finds truncations where it says nothing.

    Raises:
        Refused: the form is not known, the file is damaged or holds pickled objects, or it does not fit `spaces`.
    """
    if not path.exists():
        raise Refused(f"data: {path} does not exist")
    stack = 1
    found: Iterator[Episode]
    if path.is_file() and is_own(path):
        dataset = Dataset.open(path)
        stack, found = dataset.stack, (dataset.episode(index) for index in range(len(dataset.starts)))
    else:
        found = _foreign(path, spaces, max_episode_steps)
    for episode in found:
        yield episode if spaces is None else conform(episode, spaces, stack)


def _foreign(path: Path, spaces: Spaces | None, max_episode_steps: int | None) -> Iterator[Episode]:
    if path.is_dir() and (parts := arrow_files(path)):
        return read_imitation(path, parts, max_episode_steps)
    file = main_file(path) if path.is_dir() else path
    if file is None:
        names = sorted(item.name for item in path.iterdir())
        raise Refused(f"data: {path} is a folder with {', '.join(names[:8]) or 'nothing'}; accepted: {_ACCEPTED}")
    with file.open("rb") as raw:
        start = raw.read(24)
    if h5py.is_hdf5(file):
        return _hdf5(file, spaces, max_episode_steps)
    if start.startswith(b"PK"):
        return read_npz(file, max_episode_steps)
    if start.startswith(b"\x80"):  # the PROTO opcode of pickle 2 and later
        return read_di_engine(file, max_episode_steps)
    if start.startswith(b"version https://git-lfs"):
        raise Refused(f"data: {file} is a pointer of Git LFS, not the data; fetch it with: git lfs pull")
    raise Refused(f"data: {file} is in no form that is known (it starts with {start[:8]!r}); accepted: {_ACCEPTED}")


def _hdf5(path: Path, spaces: Spaces | None, max_episode_steps: int | None) -> Iterator[Episode]:
    with opened(path) as file:
        refuse_pickles(path, file)
        if "episode_0" in file:
            yield from read_minari(path, file, _keys(spaces))
        elif "observations" in file:
            yield from read_d4rl(path, file, max_episode_steps)
        elif set(REQUIRED) <= set(file):
            yield from read_di_engine_hdf5(path, file, max_episode_steps)
        else:
            raise Refused(f"data: {path} has {', '.join(sorted(file)[:8]) or 'nothing'}; accepted: {_ACCEPTED}")


def _keys(spaces: Spaces | None) -> list[str] | None:
    if spaces is None or not isinstance(spaces.observation, gym.spaces.Dict):
        return None
    return list(spaces.observation.spaces)
