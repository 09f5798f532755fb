"""The rows of datasets as batches, and which of them come next."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree

from lfd.agents import Agent
from lfd.batch import Batch, tensors
from lfd.data import Dataset
from lfd.errors import Refused
from lfd.maths import n_step
from lfd.sources import JUDGED, TRANSITION, World, learnt_rewards
from lfd.sources.running import RunningReward

LANES = 64  # episodes that a reward with memory is asked about at once
RESIDENT = 2 << 30  # bytes of columns that are worth a copy on the device
LEARNT = "infos/learnt_rewards"  # the column that `relabel` stores: `reward` of such data
Rows = NDArray[np.int64]


class Table:
    """The columns that somebody reads, by row; whole on the device once `reside` found that they fit."""

    def __init__(
        self,
        dataset: Dataset,
        steps: int,
        world: World,
        constant: float | None = None,
        return_range: float | None = None,
    ) -> None:
        self._data, self._steps, self._world, self._constant = dataset, steps, world, constant
        self._columns = world.columns & (TRANSITION | {"next_action", "return_to_go", "length"})
        self._sign = world.env is not None and world.env.sign_reward
        self._judged = world.agent.judge() is not None and "reward" in world.columns
        self._learns = self._judged and world.agent.judge() is world.agent
        # What depends on an episode's past is paid beforehand: rows are drawn in any order.
        paid = self._judged and RunningReward.of(world.agent, 1) is not None
        self._paid = rewards_of(dataset, world.agent, world.gamma, world.device) if paid else None
        self._starts = torch.zeros(len(dataset), dtype=torch.bool)
        self._starts[dataset.starts] = True
        self._resident: Packed | None = None
        self._scale = 1.0 if return_range is None else return_range / self._spread()
        self._togo = self._returns_to_go() if "return_to_go" in self._columns else None

    @property
    def nbytes(self) -> int:
        """Of its columns, were they on the device."""
        return self._data.nbytes * self._data.stack * (2 if "next_obs" in self._columns else 1)

    def reside(self) -> None:
        # Rewards that are being learnt change with every step.
        if not self._learns and self.nbytes <= RESIDENT:
            self._resident = self.packed()

    def packed(self) -> "Packed":
        """All of it, on the device."""
        # In parts where networks judge them: their inputs are not among the columns that are kept.
        parts = np.array_split(np.arange(len(self._data)), -(-len(self._data) // JUDGED) if self._judged else 1)
        read = [self._read(part) for part in parts]
        # Of a single part no copy: stacks of frames may take most of the memory.
        return Packed(_pytree.tree_map(lambda *columns: torch.cat(columns), *read) if len(read) > 1 else read[0])

    def gather(self, index: Tensor) -> Batch:
        """Rows [B] or sequences [B, L]; before that [members] with members."""
        if self._resident is not None:
            found = self._resident.at(index)
        else:
            flat = self._read(index.cpu().numpy().ravel())
            found = flat.map(lambda column: column.reshape(*index.shape, *column.shape[1:]))
        if self._world.sequence == 1:
            return found
        return found.having(first=self._starts[index.cpu()].to(index.device))

    def _read(self, at: Rows) -> Batch:
        found: dict[str, Any] = {}
        if "obs" in self._columns:
            found["obs"] = self._data.observations(at)
        if "action" in self._columns:
            found["action"] = np.asarray(self._data.columns["actions"][at])
        if self._togo is not None:
            found["return_to_go"] = self._togo[at]
        if "length" in self._columns:
            found["length"] = (self._data.ends - self._data.starts)[self._data.episode_of(at)]
        if self._columns & (TRANSITION - {"obs", "action"} | {"next_action"}):
            found |= self._outcome(at)
        return Batch(**{name: tensors(column, self._world.device) for name, column in found.items()})

    def _outcome(self, at: Rows) -> dict[str, Any]:
        columns, ends = self._data.columns, self._data.ends[self._data.episode_of(at)]
        ahead = at[:, None] + np.arange(self._steps)
        last = torch.from_numpy(ahead + 1 >= ends[:, None])
        ahead = np.minimum(ahead, ends[:, None] - 1)
        true_reward = torch.from_numpy(np.asarray(columns["rewards"][ahead], np.float32))
        terminated = torch.from_numpy(np.asarray(columns["terminals"][ahead], np.bool_))
        if self._judged:
            reward = self._judge(ahead.ravel()).reshape(ahead.shape)
        else:
            reward = torch.from_numpy(self._given(ahead))
        summed, discount, taken = n_step(reward, terminated, last, self._world.gamma)
        final = at + taken.numpy() - 1
        outcome: dict[str, Any] = {
            "reward": summed.numpy(), "discount": discount.numpy(), "true_reward": true_reward[:, 0].numpy(),
            "terminated": np.asarray(columns["terminals"][final], np.bool_),
            "truncated": np.asarray(columns["timeouts"][final], np.bool_),
        }  # fmt: skip
        outcome = {name: column for name, column in outcome.items() if name in self._columns}
        if "next_obs" in self._columns:
            outcome["next_obs"] = self._data.successors(final)
        if "next_action" in self._columns:
            # Nothing was done after an episode's last action: it stands for itself.
            outcome["next_action"] = np.asarray(columns["actions"][np.minimum(final + 1, ends - 1)])
        return outcome

    def _judge(self, at: Rows) -> Tensor:
        """[N] learnt rewards of rows [N]."""
        if self._paid is not None:
            return torch.from_numpy(self._paid[at].astype(np.float32))
        agents = self._world.agents if self._learns else [self._world.agent]
        return learnt_rewards(agents, transitions(self._data, at, self._world.gamma, self._world.device)).cpu()

    def _given(self, at: Rows | slice) -> NDArray[np.float32]:
        """What the data gives to learn from, to scale."""
        return self._scale * self._unscaled(at)

    def _unscaled(self, at: Rows | slice) -> NDArray[np.float32]:
        """A constant, the rewards of a relabelled one, or the true ones."""
        rewards = np.asarray(self._data.columns["rewards"][at], np.float32)
        if self._constant is not None:
            return np.full_like(rewards, self._constant)
        if LEARNT in self._data.columns:
            return np.asarray(self._data.columns[LEARNT][at], np.float32)
        return np.sign(rewards) if self._sign else rewards

    def _spread(self) -> float:
        """How far the returns of its whole episodes lie apart."""
        returns = np.add.reduceat(self._unscaled(slice(None)), self._data.starts, dtype=np.float64)
        found = float(np.ptp(returns[self._data.whole()]))
        if not found:
            raise Refused("return_range: all episodes of the data return the same; leave it out")
        return found

    def _returns_to_go(self) -> NDArray[np.float32]:
        togo = self._given(slice(None)).astype(np.float64)
        is_last = np.zeros(len(togo), np.bool_)
        is_last[self._data.ends - 1] = True
        for row in range(len(togo) - 2, -1, -1):
            if not is_last[row]:
                togo[row] += self._world.gamma * togo[row + 1]
        return togo.astype(np.float32)


class Tables:
    """Several tables, one behind the other, as one that grows; on the device as long as they fit there."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tables: list[Table] = []
        self._ends = torch.zeros(0, dtype=torch.int64, device=world.device)
        self._packed: Packed | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._tables else 0

    def add(self, dataset: Dataset) -> None:
        table = Table(dataset, 1, self._world)
        end = torch.tensor([len(self) + len(dataset)], device=self._world.device)
        self._tables.append(table)
        self._ends = torch.cat([self._ends, end])
        if self._world.sequence == 1 and sum(table.nbytes for table in self._tables) <= RESIDENT:
            self._packed = self._packed.joined(table.packed()) if self._packed else table.packed()
        else:
            self._packed = None

    def gather(self, index: Tensor) -> Batch:
        """Rows [B] or sequences [B, L]; before that [members] with members."""
        if self._packed is not None:
            return self._packed.at(index)
        flat = index.flatten()
        owner = torch.bucketize(flat, self._ends, right=True)
        order = owner.argsort(stable=True)
        parts = []
        for number, table in enumerate(self._tables):
            start = self._ends[number - 1] if number else 0
            parts.append(table.gather(flat[owner == number] - start))
        joined: Batch = _pytree.tree_map(lambda *columns: torch.cat(columns)[order.argsort()], *parts)
        return joined.map(lambda column: column.reshape(*index.shape, *column.shape[1:]))


def transitions(data: Dataset, at: Rows, gamma: float, device: torch.device) -> Batch:
    """What a reward may look at, of rows [N]."""
    discount = gamma * ~np.asarray(data.columns["terminals"][at], np.bool_)
    return Batch(
        obs=tensors(data.observations(at), device),
        action=tensors(np.asarray(data.columns["actions"][at]), device),
        next_obs=tensors(data.successors(at), device),
        discount=tensors(discount.astype(np.float32), device),
    )


def rewards_of(data: Dataset, agent: Agent, gamma: float, device: torch.device) -> NDArray[np.float64]:
    """[N] the learnt rewards of a whole dataset, by an agent that has one or is given one."""
    if RunningReward.of(agent, 1) is not None:
        return _in_order(data, agent, gamma, device)
    parts = []
    for start in range(0, len(data), JUDGED):
        rows = np.arange(start, min(start + JUDGED, len(data)))
        parts.append(learnt_rewards([agent], transitions(data, rows, gamma, device)).double().cpu().numpy())
    return np.concatenate(parts)


def _in_order(data: Dataset, agent: Agent, gamma: float, device: torch.device) -> NDArray[np.float64]:
    """[N] rewards with memory: many episodes side by side, each from its start to its end."""
    rewards = np.empty(len(data))
    for first in range(0, len(data.starts), LANES):
        starts, ends = data.starts[first : first + LANES], data.ends[first : first + LANES]
        running = RunningReward.of(agent, len(starts))
        assert running is not None
        never = torch.zeros(len(starts), dtype=torch.bool, device=device)
        for step in range(int((ends - starts).max())):
            # Behind its end an episode's last row stands for it, and nobody takes what that is paid.
            at, lasts = np.minimum(starts + step, ends - 1), starts + step < ends
            paid = running.pay(transitions(data, at, gamma, device), over=never)
            rewards[at[lasts]] = paid.cpu().numpy()[lasts]
    return rewards


class Packed:
    """A batch whose float columns stand side by side, so that drawing a row is one read and not one a column."""

    def __init__(self, batch: Batch) -> None:
        columns, self._structure = _pytree.tree_flatten(batch)
        self._others = [None if column.dtype == torch.float32 else column for column in columns]
        packed = [column for column in columns if column.dtype == torch.float32]
        self._shapes = [column.shape[1:] for column in packed]
        self._widths = [shape.numel() for shape in self._shapes]
        size = len(columns[0])
        self._rows = torch.cat([column.reshape(size, -1) for column in packed], 1) if packed else torch.empty(size, 0)

    def joined(self, other: "Packed") -> "Packed":
        """Both, one behind the other."""
        return Packed(_pytree.tree_map(lambda *columns: torch.cat(columns), self.all(), other.all()))

    def all(self) -> Batch:
        return self.at(torch.arange(len(self._rows), device=self._rows.device))

    def at(self, index: Tensor) -> Batch:
        """Rows [...] of it."""
        drawn = torch.split(self._rows.index_select(0, index.flatten()), self._widths, 1)
        parts = (part.reshape(*index.shape, *shape) for part, shape in zip(drawn, self._shapes, strict=True))
        batch: Batch = _pytree.tree_unflatten(
            [next(parts) if column is None else column[index] for column in self._others], self._structure
        )
        return batch
