"""Pairs of pieces of ranked episodes, of which one is better."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfd.batch import Batch
from lfd.data import Dataset
from lfd.errors import Refused
from lfd.noise import derive
from lfd.sources import Source, Stream, World
from lfd.sources.table import Rows, Table

AHEAD = 64  # steps that are drawn for at once
HELD = 256  # pairs in a validation, at most
DRAWS = 6  # uniform numbers for a pair
# Whole episodes are shown from one of their first rows on, and every third to sixth of them (Brown et al. 2019).
FIRST, THINNEST, THICKEST = 6, 6, 3
NOISE = "infos/noise"  # the column of noise levels


class Rank(Enum):
    """What makes an episode better than another."""

    true_return = "true_return"  # more of it, undiscounted
    noise = "noise"  # less of it: the level that `collect` stores with each row (Brown et al. 2020)


@dataclass
class Snippets(Source):
    """Of two episodes of different rank, pieces of equal length; or, now and then, both as a whole, thinned.

    The better episode's piece never starts earlier than the other's, so that progress within an episode speaks for it
    (Brown et al. 2019, section 4). Which of the two is better is in `preferred`. Episodes are ranked by what was
    measured, never by the order of the training that they come from.
    """

    of: str = ""  # the stage whose dataset it is; the source's own name when empty
    rank: Rank = Rank.true_return
    margin: float = 0.0  # only episodes whose ranks (returns, or levels of noise) differ by more are compared
    shortest: int = 20  # rows of the data that a piece spans; no more than the shorter episode has
    longest: int = 60
    stride: int = 2  # every second of them is shown
    # Share of the pairs that are whole episodes; with any, batches are as wide as a third of the longest.
    trajectories: float = 0.0
    validation: float = 0.1  # share of the episodes held out: never the best or the worst

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest or self.stride < 1:
            raise Refused(
                f"snippets of {self.shortest} to {self.longest} rows by a stride of {self.stride}: "
                "1 <= shortest <= longest and a stride of 1 or more are expected"
            )
        if not 0 <= self.margin < (1 if self.rank is Rank.noise else math.inf):
            most = ", and below 1 between levels of noise," if self.rank is Rank.noise else ""
            raise Refused(f"margin of snippets is {self.margin:g}; 0 or more{most} is expected")
        if not 0 <= self.trajectories <= 1 or not 0 <= self.validation < 1:
            raise Refused("of snippets, trajectories is a share in [0, 1] and validation one in [0, 1)")

    def gives(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return frozenset({"obs", "action", "next_obs", "discount", "terminated", "preferred", "valid"})

    def products(self, name: str) -> tuple[str, ...]:
        return (self.of or name,)

    def open(self, world: World) -> Stream:
        return SnippetStream(self, world)

    def shape(self, batch: int) -> tuple[int, ...]:
        return (batch, 2, -(-self.longest // self.stride))


class Pieces(NamedTuple):
    rows: Tensor  # int64 [..., 2, L] of the data; in the padding the episode's last
    valid: Tensor  # bool [..., 2, L]
    preferred: Tensor  # int64 [...]


class SnippetStream(Stream):
    """Batches of pairs: columns of transitions are [B, 2, L, ...], before that [members] with members."""

    def __init__(self, source: Snippets, world: World) -> None:
        self.source, self.world = source, world
        name = source.of or world.name
        if world.sequence > 1:
            raise Refused(f"snippets of {name!r} are no sequences for an agent with memory; use one without")
        data = world.datasets[name]
        ranks = ranked(data, source.rank, name, source.margin)
        held = held_episodes(ranks, source.validation)
        self._starts = torch.from_numpy(data.starts).to(world.device)
        self._lengths = torch.from_numpy(data.ends - data.starts).to(world.device)
        self._width = self._longest_piece()
        self._pairs = Pairs(ranks, np.setdiff1d(np.arange(len(ranks)), held), source.margin, world.device)
        self._table = Table(data, 1, world)
        self._table.reside()
        self._held = self._validation(ranks, held)
        self._generator = torch.Generator(device=world.device).manual_seed(derive(world.seed, "draws"))
        self._ahead: list[Pieces] = []
        self._used = 0
        self._before = self._generator.get_state()

    def _longest_piece(self) -> int:
        """Rows shown of the longest piece that there may be."""
        second, longest = (int(length) for length in self._lengths.sort().values[-2:])
        rows = -(-min(self.source.longest, second) // self.source.stride)
        return max(rows, -(-longest // THICKEST)) if self.source.trajectories else rows

    def _validation(self, ranks: NDArray[np.float64], held: Rows) -> Pieces | None:
        """Pairs of which at least one episode is held out; always the same."""
        if not len(held):
            return None
        generator = torch.Generator(device=self.world.device).manual_seed(derive(self.world.seed, "validation"))
        one, other = (torch.rand(8 * HELD, generator=generator, device=self.world.device).cpu().numpy() for _ in "ab")
        pair = np.stack([held[(one * len(held)).astype(int)], (other * len(ranks)).astype(int)], 1)
        pair = pair[np.abs(np.diff(ranks[pair])[:, 0]) > self.source.margin][:HELD]
        if not len(pair):
            return None
        by_rank = np.take_along_axis(pair, np.argsort(ranks[pair], 1), 1)
        return self._cut(torch.from_numpy(by_rank).to(self.world.device), generator)

    def next(self) -> Batch:
        if self._used == len(self._ahead):
            self._before = self._generator.get_state()
            self._ahead, self._used = self._draw(), 0
        self._used += 1
        return self._shown(self._ahead[self._used - 1])

    def _draw(self) -> list[Pieces]:
        members = (self.world.members,) if self.world.members > 1 else ()
        drawn = self._cut(self._pairs.draw(self._generator, AHEAD, *members, self.world.batch), self._generator)
        return [Pieces(*parts) for parts in zip(*drawn, strict=True)]

    def _cut(self, pair: Tensor, generator: torch.Generator) -> Pieces:
        """Pieces of pairs [..., 2] of a worse and a better episode."""
        source, own = self.source, self._lengths[pair]
        # In float64: a share of n is then below n.
        draws = torch.rand(DRAWS, *pair.shape[:-1], generator=generator, device=pair.device, dtype=torch.float64)
        shorter = own.amin(-1)
        span = (source.shortest + _below(source.longest - source.shortest + 1, draws[0])).minimum(shorter)
        worse = _below(shorter - span + 1, draws[1])
        better = worse + _below(own[..., 1] - span - worse + 1, draws[2])
        start = torch.stack([worse, better], -1)
        end, stride = start + span.unsqueeze(-1), torch.full_like(span, source.stride)
        if source.trajectories:
            whole = draws[3] < source.trajectories
            thin = THICKEST + _below(THINNEST - THICKEST + 1, draws[4])
            first = torch.stack([_below(FIRST, draws[1]), _below(FIRST, draws[2])], -1).minimum(own - 1)
            start, end = (torch.where(whole[..., None], *two) for two in ((first, start), (own, end)))
            stride = torch.where(whole, thin, stride)
        step = torch.arange(self._width, device=pair.device)
        row = start.unsqueeze(-1) + stride[..., None, None] * step
        valid = row < end.unsqueeze(-1)
        index = self._starts[pair].unsqueeze(-1) + row.minimum(own.unsqueeze(-1) - 1)
        is_second = draws[5] < 0.5
        place = is_second[..., None, None]
        index, valid = (torch.where(place, column, column.flip(-2)) for column in (index, valid))
        return Pieces(index, valid, is_second.long())

    def _shown(self, pieces: Pieces) -> Batch:
        return self._table.gather(pieces.rows).having(valid=pieces.valid, preferred=pieces.preferred)

    def epoch_steps(self) -> int:
        return max(-(-self._pairs.count // self.world.batch), 1)

    def held_out(self) -> list[Batch]:
        """One batch of pairs of which at least one episode is held out; the same for all members."""
        if self._held is None:
            return []
        batch, members = self._shown(self._held), self.world.members
        return [batch if members == 1 else batch.map(lambda column: column.expand(members, *column.shape))]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"generator": self._before}, {"used": self._used}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._before = tensors["generator"]
        self._generator.set_state(self._before)
        self._used = int(state["used"])
        self._ahead = self._draw() if self._used else []


class Pairs:
    """All pairs of some of the episodes whose ranks differ by more than a margin; there may be too many for a list."""

    def __init__(self, ranks: NDArray[np.float64], among: Rows, margin: float, device: torch.device) -> None:
        order = among[np.argsort(ranks[among], kind="stable")]
        worse = np.searchsorted(ranks[order], ranks[order] - margin)  # so many are worse by more than that
        self._order = torch.from_numpy(order).to(device)
        self._worse = torch.from_numpy(worse).to(device)
        self._ends = self._worse.cumsum(0)
        self.count = int(worse.sum())

    def draw(self, generator: torch.Generator, *shape: int) -> Tensor:
        """Episodes [*shape, 2], the worse one first; every pair is as likely as any other."""
        number = torch.randint(self.count, shape, generator=generator, device=self._order.device)
        better = torch.searchsorted(self._ends, number, right=True)
        worse = number - (self._ends[better] - self._worse[better])
        return self._order[torch.stack([worse, better], -1)]


def ranked(data: Dataset, rank: Rank, name: str, margin: float) -> NDArray[np.float64]:
    """[E] the rank of each episode, more is better. Raises Refused where no two differ by more than the margin."""
    if rank is Rank.noise and NOISE not in data.columns:
        raise Refused(f"dataset {name!r} does not tell its noise; collect it with epsilons, or rank by true_return")
    by_noise = rank is Rank.noise
    ranks = -np.asarray(data.columns[NOISE][data.starts], np.float64) if by_noise else data.returns()
    if len(ranks) < 2:
        raise Refused(f"dataset {name!r} has {len(ranks)} episode; two or more of different rank are expected")
    if (ranks == ranks[0]).all():
        what = f"a noise of {-ranks[0]:g}" if by_noise else f"a return of {ranks[0]:g}"
        raise Refused(
            f"dataset {name!r}: all {len(ranks)} episodes have {what}; two or more of different rank are expected, as "
            "dataset=ranked collects them"
        )
    if np.ptp(ranks) <= margin:
        raise Refused(
            f"dataset {name!r}: ranks of its {len(ranks)} episodes differ by {np.ptp(ranks):g} at most; a margin below "
            f"that is expected, not {margin:g}"
        )
    return ranks


def held_episodes(ranks: NDArray[np.float64], share: float) -> Rows:
    """Episodes held out, at even distances in rank between the worst and the best, which never are.

    At least one if a share is asked for, but none of fewer than four.
    """
    inner = np.argsort(ranks, kind="stable")[1:-1]
    count = min(round(share * len(ranks)) or 1, len(inner) - 1) if share > 0 and len(ranks) > 3 else 0
    held: Rows = inner[((np.arange(count) + 0.5) * len(inner) / max(count, 1)).astype(np.int64)]
    return held


def _below(limit: Tensor | int, uniform: Tensor) -> Tensor:
    """Integers in [0, limit) of uniform draws."""
    return (uniform * limit).long()
