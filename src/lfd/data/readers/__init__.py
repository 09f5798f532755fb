"""Reads foreign files as episodes. The format is detected from the content; no code in a file is ever executed.

Suffixes that packages register (`lfd.data.readers.plugins`) come first.
"""

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

from lfd.data.dataset import Dataset, is_lfd_file
from lfd.data.episode import Episode, cast_to_spaces, check_finite
from lfd.data.layout import open_hdf5
from lfd.data.readers.babyai import babyai_spaces, is_babyai, read_babyai
from lfd.data.readers.d4rl import read_d4rl
from lfd.data.readers.di_engine import DI_ENGINE_COLUMNS, read_di_engine, read_di_engine_hdf5
from lfd.data.readers.frames import FrameUnstacker
from lfd.data.readers.imitation import arrow_files, read_imitation
from lfd.data.readers.minari import minari_file, minari_spaces, read_minari
from lfd.data.readers.npz import read_npz
from lfd.data.readers.plugins import plugin_reader
from lfd.data.readers.unpickle import load_pickle
from lfd.envs.spaces import Spaces, refuse_other_words
from lfd.errors import RunError, UserError, external_error

_DATA_FILE = "data.hdf5"  # in the folder of an artifact
_ACCEPTED = (
    "lfd's own HDF5, D4RL HDF5, a Minari folder, npz of stable-baselines 2, imitation's trajectories "
    "(npz or a folder), DI-engine's pickled list or HDF5, BabyAI's pickled demonstrations"
)


def resolve_source(path: Path) -> Path:
    """The file or folder to read: `path`, or the data file in the folder of an artifact.

    Raises:
        UserError: nothing is at `path`, it is a folder in an unknown format, or it is neither a file nor a folder
            (reading a pipe might never end).
    """
    with refuse_unreadable(path):
        if not path.exists():
            got = "a link to nothing" if path.is_symlink() else "nothing"
            raise UserError(
                f"data: {path}: there is no such file; expected a file or a folder, got {got}; check the path"
            )
        if not (path.is_file() or path.is_dir()):
            raise UserError(
                f"data: {path}: expected a file or a folder, got a pipe, a socket or a device; write it to a file"
            )
        inner = path / _DATA_FILE
        if path.is_dir() and inner.is_file() and is_lfd_file(inner):
            return inner
        if path.is_dir() and not arrow_files(path) and minari_file(path) is None and plugin_reader(path) is None:
            names = sorted(item.name for item in path.iterdir())
            raise UserError(
                f"data: {path}: expected data, got a folder with {', '.join(names[:8]) or 'nothing'}; "
                f"accepted: {_ACCEPTED}"
            )
        return path


def read(
    path: Path, spaces: Spaces | None = None, max_episode_steps: int | None = None, stack: int | None = None
) -> Iterator[Episode]:
    """Episodes of a file or folder in any known format.

    Args:
        path: A file, or a folder for Minari, imitation and artifacts.
        spaces: Spaces of the environment; episodes get their shapes and dtypes.
        max_episode_steps: The environment's time limit, in steps. It separates terminations from truncations where a
            file only marks that an episode ended, and finds truncations where a file marks nothing.
        stack: Frames that an observation of `spaces` stacks; episodes then hold single frames. When None, the number
            that an lfd file declares, and 1 for other files.

    Raises:
        UserError: the format is unknown; the file is damaged, in use, or holds pickled objects or values that are not
            finite numbers; or it does not fit `spaces`.
    """
    path = resolve_source(path)
    with refuse_unreadable(path):
        data = Dataset.open(path) if path.is_file() and is_lfd_file(path) else None
        if data is not None and spaces is not None:
            way_out = "make the dataset again"
            refuse_other_words(f"data: {path}", spaces.observation, data.spaces.observation, way_out)
        if data is None:
            episodes = _read_foreign(path, spaces, max_episode_steps)
        else:
            episodes = map(data.episode, range(len(data.starts)))
        stack = stack or (1 if data is None else data.stack)
        frames = FrameUnstacker(spaces, stack)
        for index, episode in enumerate(episodes):
            where = f"data: {path}, episode {index}"
            check_finite(episode, where)
            episode = replace(episode, rewards=np.asarray(episode.rewards, np.float32).reshape(-1))
            if spaces is not None:
                try:
                    episode = cast_to_spaces(frames.unstack(episode), spaces, stack)
                except UserError as refusal:
                    raise UserError(f"{where}: {str(refusal).removeprefix('data: ')}") from refusal
            yield episode
        frames.check_lost_frames(path)


class DeclaredSpaces(NamedTuple):
    """The spaces that the metadata of a file declare."""

    spaces: Spaces
    stack: int  # frames that an observation stacks; 1 is no stacking
    first_action: int  # the smallest discrete action in the file; episodes are shifted to count from 0
    is_lfd_file: bool


def declared_spaces(path: Path) -> DeclaredSpaces | None:
    """The spaces that a file declares; None if it declares none. Raises UserError as `read` does."""
    path = resolve_source(path)
    with refuse_unreadable(path):
        if path.is_file() and is_lfd_file(path):
            data = Dataset.open(path)
            return DeclaredSpaces(data.spaces, data.stack, 0, True)
        file = minari_file(path) if path.is_dir() else path
        if path.is_file() and _is_pickle(path) and is_babyai(content := load_pickle(path)):
            return DeclaredSpaces(babyai_spaces(content), 1, 0, False)
        if file is None or not h5py.is_hdf5(file):
            return None
        with open_hdf5(file) as content:
            declared = minari_spaces(file, content) if "episode_0" in content else None
            return DeclaredSpaces(declared[0], 1, declared[1], False) if declared else None


@contextmanager
def refuse_unreadable(path: Path) -> Iterator[None]:
    """Turns every error of the body into a UserError that names the file: libraries raise anything on damaged files."""
    try:
        yield
    except RunError:
        raise
    except MemoryError as error:
        raise UserError(
            f"data: {path}: expected data that fit into memory, got larger ones; copy the file again, or split it"
        ) from error
    except OSError as error:
        # HDF5 names the file only in its text.
        if error.errno and (error.filename or isinstance(error, PermissionError | FileNotFoundError)):
            raise UserError(
                f"data: {error.filename or path} cannot be read ({os.strerror(error.errno)}); expected a file that you "
                "may read; change its permissions"
            ) from error
        raise external_error(f"data: reading {path}", error, "it is damaged: copy or make it again") from error
    except Exception as error:
        raise external_error(f"data: reading {path}", error, "it is damaged, or in an unknown format") from error


def _read_foreign(path: Path, spaces: Spaces | None, max_episode_steps: int | None) -> Iterator[Episode]:
    if (reader := plugin_reader(path)) is not None:
        return reader(path, max_episode_steps)
    if path.is_dir() and (parts := arrow_files(path)):
        return read_imitation(path, parts, max_episode_steps)
    file = minari_file(path) if path.is_dir() else path
    assert file is not None, "resolve_source refuses other folders"
    start = _first_bytes(file)
    if h5py.is_hdf5(file):
        return _read_hdf5(file, spaces, max_episode_steps)
    if start.startswith(b"PK"):
        return read_npz(file, max_episode_steps)
    if _is_pickle(file):
        content = load_pickle(file)
        if is_babyai(content):
            return read_babyai(file, content, spaces, max_episode_steps)
        return read_di_engine(file, content, max_episode_steps)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"data: {file}: expected data, got a pointer of Git LFS; fetch it with: git lfs pull")
    raise UserError(
        f"data: {file}: expected a known format, got a file that starts with {start[:8]!r}; accepted: {_ACCEPTED}"
    )


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as raw:
        return raw.read(24)


def _is_pickle(file: Path) -> bool:
    return _first_bytes(file).startswith(b"\x80")  # the PROTO opcode of pickle 2 and later


def _read_hdf5(path: Path, spaces: Spaces | None, max_episode_steps: int | None) -> Iterator[Episode]:
    with open_hdf5(path) as file:
        names = set(file)
        if "episode_0" in names:
            yield from read_minari(path, file, _observation_keys(spaces))
        elif "observations" in names:
            yield from read_d4rl(path, file, max_episode_steps)
        elif set(DI_ENGINE_COLUMNS) <= names:
            yield from read_di_engine_hdf5(path, file, max_episode_steps)
        else:
            raise UserError(
                f"data: {path}: expected columns of a known format, got {', '.join(sorted(names)[:8]) or 'nothing'}; "
                f"accepted: {_ACCEPTED}"
            )


def _observation_keys(spaces: Spaces | None) -> list[str] | None:
    if spaces is None or not isinstance(spaces.observation, gym.spaces.Dict):
        return None
    return list(spaces.observation.spaces)
