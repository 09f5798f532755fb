"""Other people's files, read as episodes. The format is found by looking; nothing in a file is ever executed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import h5py
import numpy as np

from lfd.data.dataset import Dataset, is_own
from lfd.data.episode import Episode, check_numbers, conform
from lfd.data.layout import opened
from lfd.data.readers.d4rl import read_d4rl
from lfd.data.readers.di_engine import REQUIRED, read_di_engine, read_di_engine_hdf5
from lfd.data.readers.frames import Frames
from lfd.data.readers.imitation import arrow_files, read_imitation
from lfd.data.readers.minari import main_file, read_minari, told_spaces
from lfd.data.readers.npz import read_npz
from lfd.envs.spaces import Spaces
from lfd.errors import Ending, Refused, foreign_error

_OWN = "data.hdf5"  # in the folder of an artifact
_ACCEPTED = (
    "lfd's own HDF5, D4RL HDF5, a Minari folder, npz of stable-baselines 2, imitation's trajectories "
    "(npz or a folder), DI-engine's pickled list or HDF5"
)


def source(path: Path) -> Path:
    """The file or folder that is read: of the folder of one of our artifacts, the file with its data.

    Raises:
        Refused: it is not there, is a folder of no form that is known, or is neither a file nor a folder (a pipe would
            be waited for without an end).
    """
    with told(path):
        if not path.exists():
            raise Refused(f"data: {path}: there is no such file" + (", the link leads nowhere" * path.is_symlink()))
        if not (path.is_file() or path.is_dir()):
            raise Refused(
                f"data: {path} is a pipe, a socket or a device; expected a file or a folder: write it to a file"
            )
        inner = path / _OWN
        if path.is_dir() and inner.is_file() and is_own(inner):
            return inner
        if path.is_dir() and not arrow_files(path) and main_file(path) is None:
            names = sorted(item.name for item in path.iterdir())
            raise Refused(f"data: {path} is a folder with {', '.join(names[:8]) or 'nothing'}; accepted: {_ACCEPTED}")
        return path


def read(
    path: Path, spaces: Spaces | None = None, max_episode_steps: int | None = None, stack: int | None = None
) -> Iterator[Episode]:
    """Episodes of a file or folder in any form that is known.

    Args:
        path: A file, or a folder for Minari, imitation and artifacts.
        spaces: Of the environment; with them, episodes have their shapes and dtypes.
        max_episode_steps: The environment's time limit. It tells terminations from truncations where a file only says
            that an episode ended, and finds truncations where it says nothing.
        stack: How many frames an observation of `spaces` stacks; episodes then hold single frames. When None, as many
            as in a file of our own, and 1 in others.

    Raises:
        Refused: the form is not known, the file is damaged, in use, or holds pickled objects or values that are no
            finite numbers, or it does not fit `spaces`.
    """
    path = source(path)
    with told(path):
        own = Dataset.open(path) if path.is_file() and is_own(path) else None
        found = _foreign(path, spaces, max_episode_steps) if own is None else map(own.episode, range(len(own.starts)))
        stack = stack or (1 if own is None else own.stack)
        frames = Frames(spaces, stack)
        for index, episode in enumerate(found):
            where = f"data: {path}, episode {index}"
            check_numbers(episode, where)
            episode = replace(episode, rewards=np.asarray(episode.rewards, np.float32).reshape(-1))
            if spaces is not None:
                try:
                    episode = conform(frames.single(episode), spaces, stack)
                except Refused as refusal:
                    raise Refused(f"{where}: {str(refusal).removeprefix('data: ')}") from refusal
            yield episode
        frames.check(path)


class Named(NamedTuple):
    """The spaces that a file names itself, which its values need not show."""

    spaces: Spaces
    stack: int  # frames that an observation stacks; 1 is none
    first_action: int  # what its discrete actions count from; here it is 0
    is_own: bool


def named(path: Path) -> Named | None:
    """What a file names; None where only its values show the spaces. Raises Refused as `read` does."""
    path = source(path)
    with told(path):
        if path.is_file() and is_own(path):
            data = Dataset.open(path)
            return Named(data.spaces, data.stack, 0, True)
        file = main_file(path) if path.is_dir() else path
        if file is None or not h5py.is_hdf5(file):
            return None
        with opened(file) as content:
            found = told_spaces(file, content) if "episode_0" in content else None
            return Named(found[0], 1, found[1], False) if found else None


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tells in one line what reading a file fails with: the libraries below raise whatever a damaged file leads to."""
    try:
        yield
    except Ending:
        raise
    except MemoryError as error:
        raise Refused(
            f"data: {path} declares more than the memory holds; expected a file that is whole, or split it"
        ) from error
    except OSError as error:
        # HDF5 names the file in its text only
        if error.errno and (error.filename or isinstance(error, PermissionError | FileNotFoundError)):
            raise Refused(
                f"data: {error.filename or path} cannot be read ({os.strerror(error.errno)}); expected a file that you "
                "may read"
            ) from error
        raise foreign_error(f"data: reading {path}", error, "it is damaged: copy or make it again") from error
    except Exception as error:
        raise foreign_error(f"data: reading {path}", error, "it is damaged, or in no form that is known") from error


def _foreign(path: Path, spaces: Spaces | None, max_episode_steps: int | None) -> Iterator[Episode]:
    if path.is_dir() and (parts := arrow_files(path)):
        return read_imitation(path, parts, max_episode_steps)
    file = main_file(path) if path.is_dir() else path
    assert file is not None, "source() has looked"
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
        names = set(file)
        if "episode_0" in names:
            yield from read_minari(path, file, _keys(spaces))
        elif "observations" in names:
            yield from read_d4rl(path, file, max_episode_steps)
        elif set(REQUIRED) <= names:
            yield from read_di_engine_hdf5(path, file, max_episode_steps)
        else:
            raise Refused(f"data: {path} has {', '.join(sorted(names)[:8]) or 'nothing'}; accepted: {_ACCEPTED}")


def _keys(spaces: Spaces | None) -> list[str] | None:
    if spaces is None or not isinstance(spaces.observation, gym.spaces.Dict):
        return None
    return list(spaces.observation.spaces)
