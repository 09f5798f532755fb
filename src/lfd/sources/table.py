"""The rows of a dataset as batches."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree

from lfd.batch import Batch, tensors
from lfd.data import Dataset
from lfd.maths import n_step
from lfd.sources import JUDGED, TRANSITION, World, learnt_rewards

RESIDENT = 2 << 30  # bytes of columns that are worth a copy on the device
Rows = NDArray[np.int64]


class Table:
    """The columns that somebody reads, by row; whole on the device once `reside` found that they fit."""

    def __init__(self, dataset: Dataset, steps: int, world: World) -> None:
        self._data, self._steps, self._world = dataset, steps, world
        self._columns = world.columns & (TRANSITION | {"next_action", "return_to_go"})
        self._sign = world.env is not None and world.env.sign_reward
        self._judged = world.agent.judge() is not None and "reward" in world.columns
        self._learns = self._judged and world.agent.judge() is world.agent
        self._starts = torch.zeros(len(dataset), dtype=torch.bool)
        self._starts[dataset.starts] = True
        self._resident: Packed | None = None
        self._togo = self._returns_to_go() if "return_to_go" in self._columns else None

    def reside(self) -> None:
        if self._learns:
            return  # its rewards change with every step
        copies = 2 if "next_obs" in self._columns else 1
        if self._data.nbytes * copies * self._data.stack <= RESIDENT:
            # In parts where networks judge them: their inputs are not among the columns that are kept.
            parts = np.array_split(np.arange(len(self._data)), -(-len(self._data) // JUDGED) if self._judged else 1)
            self._resident = Packed(_pytree.tree_map(lambda *columns: torch.cat(columns), *map(self._read, parts)))

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
            reward = self._judge(ahead.ravel(), terminated).reshape(ahead.shape)
        else:
            reward = true_reward.sign() if self._sign else true_reward
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

    def _judge(self, at: Rows, terminated: Tensor) -> Tensor:
        """[N] learnt rewards of rows [N]."""
        device = self._world.device
        transitions = Batch(
            obs=tensors(self._data.observations(at), device),
            action=tensors(np.asarray(self._data.columns["actions"][at]), device),
            next_obs=tensors(self._data.successors(at), device),
            discount=(self._world.gamma * (~terminated).float()).flatten().to(device),
        )
        rewards = learnt_rewards(self._world.agents if self._learns else [self._world.agent], transitions)
        assert rewards is not None
        return rewards.cpu()

    def _returns_to_go(self) -> NDArray[np.float32]:
        rewards = np.asarray(self._data.columns["rewards"], np.float64)
        rewards = np.sign(rewards) if self._sign else rewards
        togo = rewards.copy()
        is_last = np.zeros(len(rewards), np.bool_)
        is_last[self._data.ends - 1] = True
        for row in range(len(togo) - 2, -1, -1):
            if not is_last[row]:
                togo[row] += self._world.gamma * togo[row + 1]
        return togo.astype(np.float32)


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

    def at(self, index: Tensor) -> Batch:
        """Rows [...] of it."""
        drawn = torch.split(self._rows.index_select(0, index.flatten()), self._widths, 1)
        parts = (part.reshape(*index.shape, *shape) for part, shape in zip(drawn, self._shapes, strict=True))
        batch: Batch = _pytree.tree_unflatten(
            [next(parts) if column is None else column[index] for column in self._others], self._structure
        )
        return batch
