"""Offline: batches drawn from a dataset, on the device when it fits there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree

from lfd.batch import Batch, tensors
from lfd.data import Dataset
from lfd.errors import Refused
from lfd.maths import n_step
from lfd.noise import derive
from lfd.sources import JUDGED, TRANSITION, Source, Stream, World, learnt_rewards

RESIDENT = 2 << 30  # bytes of columns that are worth a copy on the device
AHEAD = 256  # draws of the generator at once: one call of it costs as much as a small batch
Rows = NDArray[np.int64]


@dataclass
class Demonstrations(Source):
    of: str = ""  # the stage whose dataset it is; the source's own name when empty
    n_step: int = 1
    validation: float = 0.0  # share of the episodes held out

    def __post_init__(self) -> None:
        if self.n_step < 1 or not 0 <= self.validation < 1:
            raise Refused("of a dataset source, n_step is 1 or more and validation a share in [0, 1)")

    def gives(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return TRANSITION | {"next_action", "return_to_go"}

    def products(self, name: str) -> tuple[str, ...]:
        return (self.of or name,)

    def open(self, world: World) -> Stream:
        return DemonstrationStream(self, world)


class DemonstrationStream(Stream):
    def __init__(self, source: Demonstrations, world: World) -> None:
        self.world = world
        name = source.of or world.name
        table = Table(world.datasets[name], source.n_step, world)
        learn, held = split(world.datasets[name], source.validation)
        # Sequences run on from one episode into the next, where the memory begins anew: no row is left out.
        self._places = len(learn) - world.sequence + 1
        if self._places < 1:
            raise Refused(
                f"dataset {name!r} has {len(learn)} transitions to learn from beside the {source.validation:.0%} held "
                f"out for validation; {world.sequence} or more are expected"
            )
        self._size = len(learn)
        self._held = _runs(held, world.sequence)
        self._rows = None if len(held) == 0 else torch.from_numpy(learn).to(world.device)
        table.reside()
        self._table = table
        self._generator = torch.Generator(device=world.device).manual_seed(derive(world.seed, "draws"))
        self._ahead: Tensor | None = None
        self._used = 0
        self._before = self._generator.get_state()

    def next(self) -> Batch:
        if self._ahead is None or self._used == AHEAD:
            self._before = self._generator.get_state()
            self._ahead, self._used = self._draw(), 0
        self._used += 1
        return self._table.gather(self._ahead[self._used - 1])

    def _draw(self) -> Tensor:
        members, length = (self.world.members,) if self.world.members > 1 else (), self.world.sequence
        shape = (AHEAD, *members, self.world.batch // length)
        index = torch.randint(self._places, shape, generator=self._generator, device=self.world.device)
        if length > 1:
            index = index.unsqueeze(-1) + torch.arange(length, device=self.world.device)
        return index if self._rows is None else self._rows[index]

    def epoch_steps(self) -> int:
        return max(-(-self._size // self.world.batch), 1)

    def held_out(self) -> list[Batch]:
        """Held-out rows or sequences, at most 10,000, in batches of 1,000 or one smaller; the same for all members."""
        if not len(self._held):
            return []
        members = self.world.members
        index = torch.from_numpy(self._held[:10_000]).to(self.world.device)
        # Equal parts, so that the mean over them is the mean over rows.
        parts = torch.split(index[: len(index) // 1_000 * 1_000 or None], 1_000)
        return [self._table.gather(part if members == 1 else part.expand(members, *part.shape)) for part in parts]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"generator": self._before}, {"used": self._used}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._before = tensors["generator"]
        self._generator.set_state(self._before)
        self._ahead, self._used = None, int(state["used"])
        if self._used:
            self._ahead = self._draw()


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
        self._resident: Batch | None = None
        self._togo = self._returns_to_go() if "return_to_go" in self._columns else None

    def reside(self) -> None:
        if self._learns:
            return  # its rewards change with every step
        copies = 2 if "next_obs" in self._columns else 1
        if self._data.nbytes * copies * self._data.stack <= RESIDENT:
            # In parts where networks judge them: their inputs are not among the columns that are kept.
            parts = np.array_split(np.arange(len(self._data)), -(-len(self._data) // JUDGED) if self._judged else 1)
            self._resident = _pytree.tree_map(lambda *columns: torch.cat(columns), *map(self._read, parts))

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


def _runs(rows: Rows, length: int) -> Rows:
    """Rows as sequences [N, length] side by side, without what is left over; [N] for a length of 1."""
    return rows if length == 1 else rows[: len(rows) // length * length].reshape(-1, length)


def split(dataset: Dataset, share: float) -> tuple[Rows, Rows]:
    """Rows to learn from and rows held out: whole episodes at even distances.

    At least one if a share is asked for, but none of a dataset that has only one.
    """
    episodes = len(dataset.starts)
    count = round(share * episodes) or (1 if share > 0 and episodes > 1 else 0)
    held = ((np.arange(count) + 0.5) * episodes / max(count, 1)).astype(int)
    is_held = np.isin(dataset.episode_of(np.arange(len(dataset))), held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def statistics(dataset: Dataset, limit: int = 1_000_000) -> Iterator[Any]:
    """Observations [N, ...] from which an agent's normaliser is made: all rows, or `limit` evenly spaced ones.

    They come in parts, because observations with frames in them exceed memory.
    """
    count = len(dataset)
    at = np.arange(count) if count <= limit else np.linspace(0, count - 1, limit).astype(np.int64)
    for start in range(0, len(at), 10_000):
        yield dataset.observations(at[start : start + 10_000])
