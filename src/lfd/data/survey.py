"""A look through a file before anything is made of it: the spaces that it shows, and what cannot be learnt from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

import gymnasium as gym
import numpy as np

from lfd.data.episode import Array, Episode, flatten
from lfd.data.outside import Outside
from lfd.data.ranges import Range, cell
from lfd.data.readers import named, read
from lfd.envs.spaces import Spaces
from lfd.errors import Refused

_HELD_BYTES = 256 << 20  # episodes of a file up to this size stay in memory, so that it is read once
_HARDLY = 1e-3  # the smallest standard deviation that normalising brings near 1


class Survey(NamedTuple):
    """What was found of the episodes that were asked for."""

    spaces: Spaces
    stack: int  # frames that an observation stacks; 1 is none
    tells_ends: bool  # does the file say of any episode how that ended?
    infos: list[str]  # the infos that all episodes have in the same form
    notes: list[str]  # lines to tell
    # How many `episodes`; steps of the `longest`, how many have the `same`; of the longest that a limit `stopped`.
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
    taken: Callable[[Iterator[Episode]], Iterator[Episode]] = iter,
    clip_actions: bool = False,
) -> tuple[Survey, list[Episode] | None]:
    """Reads a file in any form, and the episodes that `taken` chooses if they are small enough to be held.

    Without `spaces` (of an environment), our own files and Minari's metadata tell them. Of other files the values do:
    whole numbers are actions or observations from 0 to the largest one, bytes are pixels, other observations have no
    bounds; the bounds of continuous actions are -1 and 1 if all keep to these, as most collections have them, else
    those that were reached in each dimension.

    Raises:
        Refused: as `read` does; nothing is in it, its actions are in no form that can be learnt or beyond what the
            environment takes (`clip_actions` admits continuous ones), or a value is absurdly far from all others.
    """
    notes: list[str] = []
    tells = named(path) if spaces is None else None
    if tells is not None:
        spaces, stack = tells.spaces, tells.stack
        if tells.first_action:
            notes.append(
                f"{path.name} counts its actions from {tells.first_action}; here they count from 0, and the policy's do"
            )
    is_foreign = tells is not None and not tells.is_own
    look = _Look(path, spaces, spaces is None or (is_foreign and not _bounded(spaces.action)))
    episodes = look.through(read(path, spaces, max_episode_steps, stack))
    held: list[Episode] | None = []
    size = 0
    for episode in taken(episodes):
        look.choose(episode)
        size += sum(column.nbytes for column in _columns(episode).values())
        if held is not None:
            held.append(episode)
        if size > _HELD_BYTES:
            held = None
    for _ in episodes if look.shows else ():  # what the values show, they show in the whole file
        pass
    return look.result(stack, clip_actions, notes), held


def _bounded(space: gym.Space[Any]) -> bool:
    return not isinstance(space, gym.spaces.Box) or space.is_bounded()


def bounded(episode: Episode, space: gym.Space[Any]) -> Episode:
    """The episode with continuous actions within the bounds of their space."""
    if isinstance(space, gym.spaces.Box):
        episode.actions = np.clip(episode.actions, space.low, space.high)
    return episode


@final
class _Look:
    """What is gathered of a file while its episodes pass."""

    def __init__(self, path: Path, spaces: Spaces | None, shows: bool) -> None:
        """`shows`: do the values show what `spaces` do not tell?"""
        self._path, self._spaces, self.shows = path, spaces, shows
        self._ranges: dict[str, Range] = {}
        self._infos: dict[str, Any] | None = None
        self._index, self._tells_ends = -1, False
        self._actions = Outside(spaces)
        self._lengths, self._stopped = Counter[int](), 0

    def through(self, episodes: Iterator[Episode]) -> Iterator[Episode]:
        for self._index, episode in enumerate(episodes):  # noqa: B020 - which one it is, is told of what is wrong in it
            if self.shows:
                self._widen(episode)
            yield episode

    def choose(self, episode: Episode) -> None:
        infos = {name: (column.dtype, column.shape[1:]) for name, column in episode.infos.items()}
        known = infos if self._infos is None else self._infos
        self._infos = {name: form for name, form in known.items() if infos.get(name) == form}
        self._lengths[len(episode)] += 1
        if episode.truncated and not episode.terminated:
            self._stopped = max(self._stopped, len(episode))
        if self._spaces is not None:
            self._actions.look(episode, self._index)
        if not self.shows:
            self._widen(episode)

    def result(self, stack: int, clip_actions: bool, notes: list[str]) -> Survey:
        if self._index < 0:
            raise Refused(f"data: {self._path} holds no episodes")
        for column in self._ranges.values():
            column.flush()
        notes = [*notes, *self._actions.judge(self._path, clip_actions), *self._judge()]
        longest = max(self._lengths)
        lengths = {
            "episodes": self._lengths.total(), "longest": longest, "same": self._lengths[longest],
            "stopped": self._stopped,
        }  # fmt: skip
        tells_ends = self._tells_ends or self._index == 0
        return Survey(self._all_spaces(), stack, tells_ends, sorted(self._infos or ()), notes, lengths)

    def _widen(self, episode: Episode) -> None:
        self._tells_ends |= episode.terminated or episode.truncated
        for name, column in _columns(episode).items():
            known = self._ranges.setdefault(name, Range(column))
            if column.shape[1:] != known.shape:
                raise Refused(
                    f"data: {self._path}, episode {self._index}: {name} have the shape {column.shape[1:]}; "
                    f"expected {known.shape}, as in the episodes before"
                )
            known.add(column, self._index)

    def _judge(self) -> Iterator[str]:
        """A line for each column with a value far from all others, or that hardly moves."""
        for name, column in self._ranges.items():
            far = column.farthest()
            if far is not None:
                where = (
                    f"{cell(name, column, far.dimension)} of episode {far.episode}, step {far.step} is {far.value:g}"
                )
                others = f", where nearly all lie from {far.low:.4g} to {far.high:.4g}" if np.isfinite(far.low) else ""
                if far.is_absurd:
                    raise Refused(f"data: {self._path}: {where}{others}; correct it, or leave that episode out")
                yield f"{self._path.name}: {where}{others}; correct it if it is a glitch"
            if name.startswith("observations") and column.dtype.kind == "f" and len(column.shape) < 2:
                yield from self._still(name, column)

    def _still(self, name: str, column: Range) -> Iterator[str]:
        mean, deviation = column.deviations()
        still = np.flatnonzero(deviation < _HARDLY).tolist() if column.rows > 1 else []
        if still:
            first, more = still[0], f" and {len(still) - 1} more" if len(still) > 1 else ""
            yield (
                f"{self._path.name}: {cell(name, column, first)}{more} hardly moves (it is {mean[first]:.4g} with a "
                f"standard deviation of {deviation[first]:.2g}); leave it out, or scale it, if it says something"
            )

    def _all_spaces(self) -> Spaces:
        if self._spaces is None:
            return self._shown()
        if not self.shows:
            return self._spaces
        named, shown = self._spaces.action, self._action(self._ranges["actions"])
        assert isinstance(named, gym.spaces.Box) and isinstance(shown, gym.spaces.Box)
        low, high = (np.where(np.isfinite(a), a, b) for a, b in ((named.low, shown.low), (named.high, shown.high)))
        return self._spaces._replace(action=gym.spaces.Box(low, high, dtype=np.float32))

    def _shown(self) -> Spaces:
        """The spaces that the values show."""
        columns = dict(self._ranges)
        action = self._action(columns.pop("actions"))
        columns.pop("rewards")
        parts = {name.removeprefix("observations/"): self._observation(name, one) for name, one in columns.items()}
        return Spaces(parts["observations"] if "observations" in columns else gym.spaces.Dict(parts), action)

    def _action(self, values: Range) -> gym.spaces.Space[Any]:
        if values.dtype.kind == "f":
            low, high = values.low.astype(np.float32), values.high.astype(np.float32)
            if (low >= -1).all() and (high <= 1).all():
                low, high = -np.ones_like(low), np.ones_like(high)
            same = low == high  # a range without width could not be scaled
            return gym.spaces.Box(low - same, high + same, dtype=np.float32)
        if values.low.size > 1 or values.low.min() < 0:
            raise Refused(
                f"data: {self._path}: its actions are {values.low.size} whole numbers from {values.low.min():g}, which "
                "no algorithm here takes: expected one from 0, or floats"
            )
        return self._counted("actions", values)

    def _observation(self, name: str, values: Range) -> gym.spaces.Space[Any]:
        if values.is_pixels:
            return gym.spaces.Box(0, 255, values.shape, np.uint8)
        if values.dtype.kind in "bui" and values.low.size == 1 and values.low.min() >= 0:
            return self._counted(name, values)
        return gym.spaces.Box(-np.inf, np.inf, values.shape or (1,), np.float32)

    def _counted(self, name: str, values: Range) -> gym.spaces.Discrete:
        most, episode, step = values.top()
        # Each number is an output of a network, or an input.
        if most > 1_000 and values.distinct() < most / 100:
            raise Refused(
                f"data: {self._path}: {name} of episode {episode}, step {step} is {most:,.0f}, and only "
                f"{values.distinct()} different numbers occur; expected numbers from 0 on, or floats for amounts"
            )
        return gym.spaces.Discrete(int(most) + 1)


def _columns(episode: Episode) -> dict[str, Array]:
    columns = flatten(episode.observations) | {"actions": episode.actions, "rewards": episode.rewards}
    return {name: np.asarray(column) for name, column in columns.items()}
