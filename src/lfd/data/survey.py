"""Reads a file before it is imported: infers its spaces from the values, and reports unsuitable data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

import gymnasium as gym
import numpy as np

from lfd.data.bounds import BoundsChecker
from lfd.data.episode import Episode, flatten_observations
from lfd.data.ranges import ColumnRange, dimension_name
from lfd.data.readers import declared_spaces, read
from lfd.envs.spaces import Array, Spaces
from lfd.errors import UserError

_MAX_HELD_BYTES = 256 << 20  # selected episodes up to this size stay in memory, so that the file is read once
_MIN_STD = 1e-3  # the smallest standard deviation that normalization brings near 1


class Survey(NamedTuple):
    """Summary of the selected episodes of a file."""

    spaces: Spaces
    stack: int  # frames that an observation stacks; 1 is no stacking
    has_end_flags: bool  # False if no episode terminated or was truncated, of two episodes or more
    infos: list[str]  # the infos that all selected episodes have with the same dtype and shape
    notes: list[str]  # warnings for the user, one line each
    # Number of `episodes`; steps of the `longest`; number of episodes with the `same` number of steps as the longest;
    # steps of the longest truncated episode (`stopped`), 0 if there is none.
    lengths: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "spaces": self.spaces.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Survey:
        return cls(**{**content, "spaces": Spaces.from_json(content["spaces"])})


def survey(
    path: Path,
    spaces: Spaces | None = None,
    stack: int = 1,
    max_episode_steps: int | None = None,
    select: Callable[[Iterator[Episode]], Iterator[Episode]] = iter,
    clip_actions: bool = False,
) -> tuple[Survey, list[Episode] | None]:
    """Reads a file in any form; also returns the episodes that `select` yields if they fit into 256 MiB.

    Without the `spaces` of an environment, lfd's own files and Minari's metadata declare them. Of other files they are
    inferred: whole numbers are actions or observations from 0 to the largest one, bytes are pixels, other observations
    have no bounds; the bounds of continuous actions are -1 and 1 if all actions keep to these, as in most collections,
    else the extremes of each dimension.

    Raises:
        UserError: `read` refuses the file; it has no episodes; no algorithm learns from actions of its kind; actions
            are out of bounds of the environment (`clip_actions` admits continuous ones); or a value is absurdly far
            from all others.
    """
    notes: list[str] = []
    declared = declared_spaces(path) if spaces is None else None
    if declared is not None:
        spaces, stack = declared.spaces, declared.stack
        if declared.first_action:
            notes.append(
                f"{path.name}: actions are shifted to count from 0; the file counts them from {declared.first_action}"
            )
    is_foreign = declared is not None and not declared.is_lfd_file
    infers = spaces is None or (is_foreign and not _is_bounded(spaces.action))
    surveyor = _Surveyor(path, spaces, infers)
    episodes = surveyor.watch(read(path, spaces, max_episode_steps, stack))
    held: list[Episode] | None = []
    size = 0
    for episode in select(episodes):
        surveyor.add_selected(episode)
        size += sum(column.nbytes for column in _columns(episode).values())
        if held is not None:
            held.append(episode)
        if size > _MAX_HELD_BYTES:
            held = None
    for _ in episodes if infers else ():  # spaces are inferred from all episodes, also those that `select` left
        pass
    return surveyor.result(stack, clip_actions, notes), held


def _is_bounded(space: gym.Space[Any]) -> bool:
    return not isinstance(space, gym.spaces.Box) or space.is_bounded()


def clip_to_bounds(episode: Episode, space: gym.Space[Any]) -> Episode:
    """The episode with its continuous actions clipped, in place, to the bounds of their space."""
    if isinstance(space, gym.spaces.Box):
        episode.actions = np.clip(episode.actions, space.low, space.high)
    return episode


@final
class _Surveyor:
    """Gathers the summary of a file while its episodes are read once."""

    def __init__(self, path: Path, spaces: Spaces | None, infers: bool) -> None:
        """`infers` is True if spaces, or the bounds of actions, are inferred from the values of all episodes."""
        self._path, self._spaces, self._infers = path, spaces, infers
        self._ranges: dict[str, ColumnRange] = {}
        self._infos: dict[str, Any] | None = None
        self._index, self._has_end_flags = -1, False
        self._bounds = BoundsChecker(spaces) if spaces is not None else None
        self._lengths, self._longest_truncated = Counter[int](), 0

    def watch(self, episodes: Iterator[Episode]) -> Iterator[Episode]:
        """Yields the episodes, and counts them for messages."""
        for self._index, episode in enumerate(episodes):  # noqa: B020 - messages name the index of the present episode
            if self._infers:
                self._add_to_ranges(episode)
            yield episode

    def add_selected(self, episode: Episode) -> None:
        """Adds an episode that was selected to be imported."""
        schema = {name: (column.dtype, column.shape[1:]) for name, column in episode.infos.items()}
        common = schema if self._infos is None else self._infos
        self._infos = {name: form for name, form in common.items() if schema.get(name) == form}
        self._lengths[len(episode)] += 1
        if episode.truncated and not episode.terminated:
            self._longest_truncated = max(self._longest_truncated, len(episode))
        if self._bounds is not None:
            self._bounds.add(episode, self._index)
        if not self._infers:
            self._add_to_ranges(episode)

    def result(self, stack: int, clip_actions: bool, notes: list[str]) -> Survey:
        """The summary. Raises UserError as `survey` does."""
        if self._index < 0:
            raise UserError(f"data: {self._path} holds no episodes; expected at least one")
        for column in self._ranges.values():
            column.flush()
        if self._bounds is not None:
            notes = [*notes, *self._bounds.report(self._path, clip_actions)]
        notes = [*notes, *self._check_ranges()]
        longest = max(self._lengths)
        lengths = {
            "episodes": self._lengths.total(), "longest": longest, "same": self._lengths[longest],
            "stopped": self._longest_truncated,
        }  # fmt: skip
        has_end_flags = self._has_end_flags or self._index == 0
        return Survey(self._final_spaces(), stack, has_end_flags, sorted(self._infos or ()), notes, lengths)

    def _add_to_ranges(self, episode: Episode) -> None:
        self._has_end_flags |= episode.terminated or episode.truncated
        for name, column in _columns(episode).items():
            column_range = self._ranges.setdefault(name, ColumnRange(column))
            if column.shape[1:] != column_range.shape:
                raise UserError(
                    f"data: {self._path}, episode {self._index}: {name}: expected the shape {column_range.shape}, as "
                    f"in earlier episodes, got {column.shape[1:]}; write one file for each shape"
                )
            column_range.add(column, self._index)

    def _check_ranges(self) -> Iterator[str]:
        """A line for each column with outliers or nearly constant dimensions. Raises UserError for an absurd value."""
        for name, column in self._ranges.items():
            outlier = column.farthest_outlier()
            if outlier is not None:
                name_of_dimension = dimension_name(name, column, outlier.dimension)
                text = f"{name_of_dimension} of episode {outlier.episode}, step {outlier.step} is {outlier.value:g}"
                if np.isfinite(outlier.low):
                    text += f", where nearly all values lie from {outlier.low:.4g} to {outlier.high:.4g}"
                if outlier.is_absurd:
                    raise UserError(f"data: {self._path}: {text}; correct it, or leave that episode out")
                yield f"{self._path.name}: {text}; correct it if it is a glitch"
            if name.startswith("observations") and column.dtype.kind == "f" and len(column.shape) < 2:
                yield from self._check_constant(name, column)

    def _check_constant(self, name: str, column: ColumnRange) -> Iterator[str]:
        mean, std = column.mean_and_std()
        dimensions = np.flatnonzero(std < _MIN_STD).tolist() if column.rows > 1 else []
        if dimensions:
            first, more = dimensions[0], f" and {len(dimensions) - 1} more" if len(dimensions) > 1 else ""
            yield (
                f"{self._path.name}: {dimension_name(name, column, first)}{more} hardly varies (mean "
                f"{mean[first]:.4g}, standard deviation {std[first]:.2g}); leave it out, or scale it if it matters"
            )

    def _final_spaces(self) -> Spaces:
        if self._spaces is None:
            return self._inferred_spaces()
        if not self._infers:
            return self._spaces
        declared, inferred = self._spaces.action, self._infer_action_space(self._ranges["actions"])
        assert isinstance(declared, gym.spaces.Box) and isinstance(inferred, gym.spaces.Box)
        bounds = ((declared.low, inferred.low), (declared.high, inferred.high))
        low, high = (np.where(np.isfinite(a), a, b) for a, b in bounds)
        return self._spaces._replace(action=gym.spaces.Box(low, high, dtype=np.float32))

    def _inferred_spaces(self) -> Spaces:
        columns = dict(self._ranges)
        action = self._infer_action_space(columns.pop("actions"))
        columns.pop("rewards")
        parts = {
            name.removeprefix("observations/"): self._infer_observation_space(name, column)
            for name, column in columns.items()
        }
        return Spaces(parts["observations"] if "observations" in columns else gym.spaces.Dict(parts), action)

    def _infer_action_space(self, column: ColumnRange) -> gym.spaces.Space[Any]:
        if column.dtype.kind == "f":
            low, high = column.low.astype(np.float32), column.high.astype(np.float32)
            if (low >= -1).all() and (high <= 1).all():
                low, high = -np.ones_like(low), np.ones_like(high)
            is_constant = low == high  # a range without width could not be scaled
            return gym.spaces.Box(low - is_constant, high + is_constant, dtype=np.float32)
        if column.low.size > 1 or column.low.min() < 0:
            raise UserError(
                f"data: {self._path}: actions: expected one whole number from 0, or floats, got {column.low.size} "
                f"whole numbers from {column.low.min():g}, which no algorithm supports; write them so"
            )
        return self._infer_discrete_space("actions", column)

    def _infer_observation_space(self, name: str, column: ColumnRange) -> gym.spaces.Space[Any]:
        if column.is_pixels:
            return gym.spaces.Box(0, 255, column.shape, np.uint8)
        if column.dtype.kind in "bui" and column.low.size == 1 and column.low.min() >= 0:
            return self._infer_discrete_space(name, column)
        return gym.spaces.Box(-np.inf, np.inf, column.shape or (1,), np.float32)

    def _infer_discrete_space(self, name: str, column: ColumnRange) -> gym.spaces.Discrete:
        largest, episode, step = column.maximum()
        # Each number is an output of a network, or an input.
        if largest > 1_000 and column.num_distinct() < largest / 100:
            raise UserError(
                f"data: {self._path}: {name} of episode {episode}, step {step} is {largest:,.0f}, and only "
                f"{column.num_distinct()} different numbers occur; expected numbers from 0 on, or floats for amounts"
            )
        return gym.spaces.Discrete(int(largest) + 1)


def _columns(episode: Episode) -> dict[str, Array]:
    columns = flatten_observations(episode.observations) | {"actions": episode.actions, "rewards": episode.rewards}
    return {name: np.asarray(column) for name, column in columns.items()}
