"""Pairs of segments of ranked episodes, of which one is preferred."""

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
from lfd.errors import UserError
from lfd.rng import derive
from lfd.sources import Source, SourceContext, Stream
from lfd.sources.columns import DatasetColumns, Rows
from lfd.sources.sampler import Prefetcher
from lfd.sources.use import SourceUse

PREFETCHED_STEPS = 64  # gradient steps whose pairs are drawn at once
MAX_VALIDATION_PAIRS = 256  # maximum number of pairs in a validation batch
UNIFORMS_PER_PAIR = 6  # uniform random numbers for a pair
# Full trajectories start at one of their first rows and have a stride of three to six rows (Brown et al. 2019).
NUM_FIRST_ROWS, MAX_STRIDE, MIN_STRIDE = 6, 6, 3
NOISE_COLUMN = "infos/noise"  # column of the noise levels that the stage `collect` stores


class Rank(Enum):
    """What episodes are ranked by."""

    true_return = "true_return"  # the larger undiscounted true return is better
    noise = "noise"  # the lower noise level of the stage `collect` is better (Brown et al. 2020)


@dataclass
class PreferencePairs(Source):
    """Segments of equal length of two episodes of different rank, or both full trajectories with a larger stride.

    The better episode's segment never starts earlier than the other's, so that progress within an episode counts for it
    (Brown et al. 2019, section 4). The column `preferred` says which of the two is better. Episodes are ranked by
    measurements, never by the order in which a training produced them.
    """

    dataset: str = ""  # the stage that produces the dataset; empty = the name of the source
    rank: Rank = Rank.true_return  # what episodes are ranked by
    margin: float = 0.0  # compare only episodes whose returns or noise levels differ by more than this
    min_length: int = 20  # minimum rows of the data that a segment spans; at most the shorter episode's length
    max_length: int = 60  # maximum rows of the data that a segment spans
    frame_stride: int = 2  # rows of the data from one row of a segment to the next
    full_trajectory_prob: float = 0.0  # fraction of pairs of full trajectories; above 0 widens all batches for them
    validation: float = 0.1  # fraction of the episodes that are held out; never the best or the worst

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.max_length:
            raise UserError(
                f"min_length: expected 1 to max_length={self.max_length} rows, got {self.min_length}; lower it "
                "or raise max_length"
            )
        if self.frame_stride < 1:
            raise UserError(f"frame_stride: expected 1 or more, got {self.frame_stride}")
        limit = 1 if self.rank is Rank.noise else math.inf
        if not 0 <= self.margin < limit:
            raise UserError(
                f"margin: expected a number in [0, {limit}) for rank={self.rank.value}, got {self.margin:g}"
            )
        if not 0 <= self.full_trajectory_prob <= 1:
            raise UserError(f"full_trajectory_prob: expected a fraction in [0, 1], got {self.full_trajectory_prob:g}")
        if not 0 <= self.validation < 1:
            raise UserError(f"validation: expected a fraction in [0, 1), got {self.validation:g}")

    def provides(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return frozenset({"obs", "action", "next_obs", "discount", "terminated", "preferred", "valid"})

    def products(self, name: str) -> tuple[str, ...]:
        return (self.dataset or name,)

    def check(self, use: SourceUse) -> None:
        if use.sequence > 1:
            raise UserError(
                f"{use.key}: expected algo.sequence_length=1, as pairs of segments are no sequences for an agent with "
                f"a memory, got {use.sequence}; use an agent without memory"
            )

    def open(self, context: SourceContext) -> Stream:
        return PreferencePairStream(self, context)

    @property
    def holds_out(self) -> bool:
        return self.validation > 0

    def shape(self, batch: int) -> tuple[int, ...]:
        return (batch, 2, -(-self.max_length // self.frame_stride))


class Segments(NamedTuple):
    """Rows of pairs of segments."""

    rows: Tensor  # int64 [..., 2, L] rows of the data; the episode's last row in the padding
    valid: Tensor  # bool [..., 2, L], False in the padding
    preferred: Tensor  # int64 [...], 0 or 1


class PreferencePairStream(Stream):
    """Batches of pairs: columns of transitions are [B, 2, L, ...], with several members [members, B, 2, L, ...]."""

    def __init__(self, source: PreferencePairs, context: SourceContext) -> None:
        self.source, self.context = source, context
        name = source.dataset or context.name
        data = context.products[name]
        ranks = rank_episodes(data, source.rank, name, source.margin)
        held = held_out_episodes(ranks, source.validation)
        self._starts = torch.from_numpy(data.starts).to(context.device)
        self._lengths = torch.from_numpy(data.ends - data.starts).to(context.device)
        self._width = self._longest_segment()
        self._pairs = EpisodePairs(ranks, np.setdiff1d(np.arange(len(ranks)), held), source.margin, context.device)
        self._columns = DatasetColumns(data, 1, context)
        self._columns.to_device()
        self._held = self._validation(ranks, held)
        self._ahead: Prefetcher[Segments] = Prefetcher(context, self._draw)

    def _longest_segment(self) -> int:
        """Largest possible number of rows in a segment."""
        second, longest = (int(length) for length in self._lengths.sort().values[-2:])
        rows = -(-min(self.source.max_length, second) // self.source.frame_stride)
        return max(rows, -(-longest // MIN_STRIDE)) if self.source.full_trajectory_prob else rows

    def _validation(self, ranks: NDArray[np.float64], held: Rows) -> Segments | None:
        """Draws the validation pairs, of which at least one episode is held out; they depend on the seed only."""
        if not len(held):
            return None
        generator = torch.Generator(device=self.context.device).manual_seed(derive(self.context.seed, "validation"))
        one, other = (
            torch.rand(8 * MAX_VALIDATION_PAIRS, generator=generator, device=self.context.device).cpu().numpy()
            for _ in "ab"
        )
        pair = np.stack([held[(one * len(held)).astype(int)], (other * len(ranks)).astype(int)], 1)
        pair = pair[np.abs(np.diff(ranks[pair])[:, 0]) > self.source.margin][:MAX_VALIDATION_PAIRS]
        if not len(pair):
            return None
        by_rank = np.take_along_axis(pair, np.argsort(ranks[pair], 1), 1)
        return self._cut(torch.from_numpy(by_rank).to(self.context.device), generator)

    def next(self) -> Batch:
        return self._gather(self._ahead.next())

    def _draw(self, generator: torch.Generator) -> list[Segments]:
        members = (self.context.members,) if self.context.members > 1 else ()
        drawn = self._cut(self._pairs.draw(generator, PREFETCHED_STEPS, *members, self.context.batch), generator)
        return [Segments(*parts) for parts in zip(*drawn, strict=True)]

    def _cut(self, pair: Tensor, generator: torch.Generator) -> Segments:
        """Cuts segments of pairs [..., 2] of a worse and a better episode."""
        source, lengths = self.source, self._lengths[pair]
        # in float64, so that a uniform number times n stays below n
        draws = torch.rand(
            UNIFORMS_PER_PAIR, *pair.shape[:-1], generator=generator, device=pair.device, dtype=torch.float64
        )
        shorter = lengths.amin(-1)
        span = (source.min_length + _below(source.max_length - source.min_length + 1, draws[0])).minimum(shorter)
        worse = _below(shorter - span + 1, draws[1])
        better = worse + _below(lengths[..., 1] - span - worse + 1, draws[2])
        start = torch.stack([worse, better], -1)
        end, stride = start + span.unsqueeze(-1), torch.full_like(span, source.frame_stride)
        if source.full_trajectory_prob:
            is_full = draws[3] < source.full_trajectory_prob
            full_stride = MIN_STRIDE + _below(MAX_STRIDE - MIN_STRIDE + 1, draws[4])
            first = torch.stack([_below(NUM_FIRST_ROWS, draw) for draw in draws[1:3]], -1).minimum(lengths - 1)
            start, end = (torch.where(is_full[..., None], *two) for two in ((first, start), (lengths, end)))
            stride = torch.where(is_full, full_stride, stride)
        step = torch.arange(self._width, device=pair.device)
        row = start.unsqueeze(-1) + stride[..., None, None] * step
        valid = row < end.unsqueeze(-1)
        index = self._starts[pair].unsqueeze(-1) + row.minimum(lengths.unsqueeze(-1) - 1)
        is_second = draws[5] < 0.5  # the better segment is the second one
        index, valid = (torch.where(is_second[..., None, None], column, column.flip(-2)) for column in (index, valid))
        return Segments(index, valid, is_second.long())

    def _gather(self, segments: Segments) -> Batch:
        return self._columns.gather(segments.rows).having(valid=segments.valid, preferred=segments.preferred)

    def epoch_steps(self) -> int:
        return max(-(-self._pairs.count // self.context.batch), 1)

    def held_out(self) -> list[Batch]:
        """Returns one batch of pairs [B, 2, L, ...] with a held-out episode each, the same for all members."""
        if self._held is None:
            return []
        batch, members = self._gather(self._held), self.context.members
        return [batch if members == 1 else batch.map(lambda column: column.expand(members, *column.shape))]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self._ahead.save()

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._ahead.restore(tensors, state)


class EpisodePairs:
    """All pairs among some episodes whose ranks differ by more than a margin, without a list of them."""

    def __init__(self, ranks: NDArray[np.float64], among: Rows, margin: float, device: torch.device) -> None:
        order = among[np.argsort(ranks[among], kind="stable")]
        worse = np.searchsorted(ranks[order], ranks[order] - margin)  # [N] number of worse episodes of each
        self._order = torch.from_numpy(order).to(device)
        self._worse = torch.from_numpy(worse).to(device)
        self._ends = self._worse.cumsum(0)
        self.count = int(worse.sum())

    def draw(self, generator: torch.Generator, *shape: int) -> Tensor:
        """Draws episodes [*shape, 2], the worse one first, uniformly over all pairs."""
        number = torch.randint(self.count, shape, generator=generator, device=self._order.device)
        better = torch.searchsorted(self._ends, number, right=True)
        worse = number - (self._ends[better] - self._worse[better])
        return self._order[torch.stack([worse, better], -1)]


def rank_episodes(data: Dataset, rank: Rank, name: str, margin: float) -> NDArray[np.float64]:
    """Ranks [E] of the episodes, larger is better. Raises UserError if no two differ by more than the margin."""
    if rank is Rank.noise and NOISE_COLUMN not in data.columns:
        raise UserError(
            f"dataset {name!r}: expected noise levels in {NOISE_COLUMN}, got none; collect it with epsilons, or set "
            "rank=true_return"
        )
    by_noise = rank is Rank.noise
    ranks = -np.asarray(data.columns[NOISE_COLUMN][data.starts], np.float64) if by_noise else data.returns()
    if len(ranks) < 2:
        raise UserError(f"dataset {name!r}: expected two or more episodes, got {len(ranks)}; collect more")
    if (ranks == ranks[0]).all():
        value = f"noise level {-ranks[0]:g}" if by_noise else f"return {ranks[0]:g}"
        raise UserError(
            f"dataset {name!r}: expected episodes of different rank, got {len(ranks)} of {value}; use dataset=ranked"
        )
    if np.ptp(ranks) <= margin:
        raise UserError(
            f"margin: expected a number below {np.ptp(ranks):g}, the largest difference of ranks in dataset {name!r}, "
            f"got {margin:g}; lower it"
        )
    return ranks


def held_out_episodes(ranks: NDArray[np.float64], fraction: float) -> Rows:
    """The held-out episodes int64 [H], at even distances in rank between the worst and the best, which are never in it.

    At least one if the fraction is above 0, but none of fewer than four episodes.
    """
    inner = np.argsort(ranks, kind="stable")[1:-1]
    count = min(round(fraction * len(ranks)) or 1, len(inner) - 1) if fraction > 0 and len(ranks) > 3 else 0
    held: Rows = inner[((np.arange(count) + 0.5) * len(inner) / max(count, 1)).astype(np.int64)]
    return held


def _below(limit: Tensor | int, uniform: Tensor) -> Tensor:
    """Integers in [0, limit) of uniform samples."""
    return (uniform * limit).long()
