"""Columns of datasets, gathered by row as batches."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree

from lfd.batch import Batch, tensors
from lfd.data import Dataset
from lfd.errors import UserError
from lfd.maths import n_step
from lfd.sources import TRANSITION, SourceContext
from lfd.sources.rewards import MAX_ROWS, RewardSelector, rewards_of, transitions_of

MAX_DEVICE_BYTES = 2 << 30  # largest columns that are copied to the device
LEARNED = "infos/learned_rewards"  # column of the rewards that the stage `relabel` stores
Rows = NDArray[np.int64]


class DatasetColumns:
    """The columns of a dataset that losses read; on the device if `to_device` found that they fit."""

    def __init__(
        self,
        dataset: Dataset,
        steps: int,
        context: SourceContext,
        constant: float | None = None,
        return_range: float | None = None,
    ) -> None:
        self._data, self._steps, self._context = dataset, steps, context
        self._columns = context.columns & (TRANSITION | {"next_action", "return_to_go", "length"})
        self._rewards = RewardSelector(context, constant, needed="reward" in context.columns)
        # a recurrent model's rewards are computed in advance, as rows are drawn in any order
        recurrent = self._rewards.recurrent is not None
        self._stored = rewards_of(dataset, context.agent, context.gamma, context.device) if recurrent else np.empty(0)
        self._starts = torch.zeros(len(dataset), dtype=torch.bool)
        self._starts[dataset.starts] = True
        self._resident: PackedColumns | None = None
        self._scale = 1.0 if return_range is None else return_range / self._spread()
        self._togo = self._returns_to_go() if "return_to_go" in self._columns else None

    @property
    def nbytes(self) -> int:
        """Size of the columns on the device."""
        return self._data.nbytes * self._data.stack * (2 if "next_obs" in self._columns else 1)

    def to_device(self) -> None:
        """Copies the columns to the device if they fit and their rewards are fixed."""
        # a reward model in training changes its rewards with every step
        if not self._rewards.is_training and self.nbytes <= MAX_DEVICE_BYTES:
            self._resident = self.packed()

    def packed(self) -> "PackedColumns":
        """Returns all columns, on the device."""
        # in parts for a reward model, as its inputs are not among the columns
        count = -(-len(self._data) // MAX_ROWS) if self._rewards.has_model else 1
        parts = np.array_split(np.arange(len(self._data)), count)
        read = [self._read(part) for part in parts]
        # a single part is not copied, as stacks of frames may take most of the memory
        return PackedColumns(_pytree.tree_map(lambda *columns: torch.cat(columns), *read) if len(read) > 1 else read[0])

    def gather(self, index: Tensor) -> Batch:
        """Returns rows at an index [B], or sequences at [B, L]; with several members after an axis [members]."""
        if self._resident is not None:
            batch = self._resident.at(index)
        else:
            flat = self._read(index.cpu().numpy().ravel())
            batch = flat.map(lambda column: column.reshape(*index.shape, *column.shape[1:]))
        if self._context.sequence == 1:
            return batch
        return batch.having(first=self._starts[index.cpu()].to(index.device))

    def _read(self, at: Rows) -> Batch:
        columns: dict[str, Any] = {}
        if "obs" in self._columns:
            columns["obs"] = self._data.observations(at)
        if "action" in self._columns:
            columns["action"] = np.asarray(self._data.columns["actions"][at])
        if self._togo is not None:
            columns["return_to_go"] = self._togo[at]
        if "length" in self._columns:
            columns["length"] = (self._data.ends - self._data.starts)[self._data.episode_of(at)]
        if self._columns & (TRANSITION - {"obs", "action"} | {"next_action"}):
            columns |= self._outcome(at)
        return Batch(**{name: tensors(column, self._context.device) for name, column in columns.items()})

    def _outcome(self, at: Rows) -> dict[str, Any]:
        columns, ends = self._data.columns, self._data.ends[self._data.episode_of(at)]
        ahead = at[:, None] + np.arange(self._steps)
        last = torch.from_numpy(ahead + 1 >= ends[:, None])
        ahead = np.minimum(ahead, ends[:, None] - 1)
        true_reward = np.asarray(columns["rewards"][at], np.float32)
        terminated = torch.from_numpy(np.asarray(columns["terminals"][ahead], np.bool_))
        reward = self._rewards.of_rows(
            self._data_rewards(ahead),
            stored=lambda: self._stored[ahead].astype(np.float32),
            transitions=lambda: transitions_of(self._data, ahead.ravel(), self._context.gamma, self._context.device),
        )
        summed, discount, num_steps = n_step(reward, terminated, last, self._context.gamma)
        final = at + num_steps.numpy() - 1
        outcome: dict[str, Any] = {
            "reward": summed.numpy(), "discount": discount.numpy(), "true_reward": true_reward,
            "terminated": np.asarray(columns["terminals"][final], np.bool_),
            "truncated": np.asarray(columns["timeouts"][final], np.bool_),
        }  # fmt: skip
        outcome = {name: column for name, column in outcome.items() if name in self._columns}
        if "next_obs" in self._columns:
            outcome["next_obs"] = self._data.next_observations(final)
        if "next_action" in self._columns:
            # an episode's last action has no successor and is repeated
            outcome["next_action"] = np.asarray(columns["actions"][np.minimum(final + 1, ends - 1)])
        return outcome

    def _data_rewards(self, at: Rows | slice) -> NDArray[np.float32]:
        """The rewards of rows without a reward model."""
        return self._scale * self._unscaled(at)

    def _unscaled(self, at: Rows | slice) -> NDArray[np.float32]:
        true = np.asarray(self._data.columns["rewards"][at], np.float32)
        relabeled = self._data.columns.get(LEARNED)
        return self._rewards.data_rewards(true, None if relabeled is None else np.asarray(relabeled[at], np.float32))

    def _spread(self) -> float:
        """The difference between the largest and the smallest return of complete episodes."""
        returns = np.add.reduceat(self._unscaled(slice(None)), self._data.starts, dtype=np.float64)
        spread = float(np.ptp(returns[self._data.complete_episodes()]))
        if not spread:
            raise UserError(
                f"algo.sources.{self._context.name}.return_range: expected episodes of different returns, got the same "
                "return in all of them; leave it out"
            )
        return spread

    def _returns_to_go(self) -> NDArray[np.float32]:
        """[N] discounted sums of the rewards up to the ends of their episodes."""
        # Python's numbers are faster in a loop and have the same bits
        togo = self._data_rewards(slice(None)).astype(np.float64).tolist()
        is_last = np.zeros(len(togo), np.bool_)
        is_last[self._data.ends - 1] = True
        for row in np.flatnonzero(~is_last)[::-1].tolist():
            togo[row] += self._context.gamma * togo[row + 1]
        return np.array(togo, np.float32)


class AggregatedColumns:
    """Concatenated columns of datasets that are added one by one; on the device while they fit."""

    def __init__(self, context: SourceContext) -> None:
        self._context = context
        self._parts: list[DatasetColumns] = []
        self._ends = torch.zeros(0, dtype=torch.int64, device=context.device)
        self._packed: PackedColumns | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._parts else 0

    def add(self, dataset: Dataset) -> None:
        """Appends the rows of a dataset."""
        part = DatasetColumns(dataset, 1, self._context)
        end = torch.tensor([len(self) + len(dataset)], device=self._context.device)
        self._parts.append(part)
        self._ends = torch.cat([self._ends, end])
        if self._context.sequence == 1 and sum(part.nbytes for part in self._parts) <= MAX_DEVICE_BYTES:
            self._packed = self._packed.joined(part.packed()) if self._packed else part.packed()
        else:
            self._packed = None

    def gather(self, index: Tensor) -> Batch:
        """Returns rows at an index [B], or sequences at [B, L]; with several members after an axis [members]."""
        if self._packed is not None:
            return self._packed.at(index)
        flat = index.flatten()
        owner = torch.bucketize(flat, self._ends, right=True)
        order = owner.argsort(stable=True)
        batches = []
        for number, part in enumerate(self._parts):
            start = self._ends[number - 1] if number else 0
            batches.append(part.gather(flat[owner == number] - start))
        joined: Batch = _pytree.tree_map(lambda *columns: torch.cat(columns)[order.argsort()], *batches)
        return joined.map(lambda column: column.reshape(*index.shape, *column.shape[1:]))


class PackedColumns:
    """A batch whose float columns are one matrix, so that drawing a row is one read for all of them."""

    def __init__(self, batch: Batch) -> None:
        columns, self._structure = _pytree.tree_flatten(batch)
        self._others = [None if column.dtype == torch.float32 else column for column in columns]
        packed = [column for column in columns if column.dtype == torch.float32]
        self._shapes = [column.shape[1:] for column in packed]
        self._widths = [shape.numel() for shape in self._shapes]
        size = len(columns[0])
        self._rows = torch.cat([column.reshape(size, -1) for column in packed], 1) if packed else torch.empty(size, 0)

    def joined(self, other: "PackedColumns") -> "PackedColumns":
        """Returns the rows of both."""
        return PackedColumns(_pytree.tree_map(lambda *columns: torch.cat(columns), self.all(), other.all()))

    def all(self) -> Batch:
        """Returns all rows [N, ...]."""
        return self.at(torch.arange(len(self._rows), device=self._rows.device))

    def at(self, index: Tensor) -> Batch:
        """Returns the rows at an int64 index [...]."""
        drawn = torch.split(self._rows.index_select(0, index.flatten()), self._widths, 1)
        parts = (part.reshape(*index.shape, *shape) for part, shape in zip(drawn, self._shapes, strict=True))
        batch: Batch = _pytree.tree_unflatten(
            [next(parts) if column is None else column[index] for column in self._others], self._structure
        )
        return batch
