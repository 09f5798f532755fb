"""Walks through whole episodes of a dataset, for agents with a memory."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfd.data import Dataset
from lfd.rng import derive
from lfd.sources import SourceContext
from lfd.sources.columns import Rows


@final
class EpisodeOrder:
    """Some episodes in random order, each once in a pass; a new pass has a new order."""

    def __init__(self, episodes: Rows, seed: int) -> None:
        self._episodes = episodes
        self._generator = torch.Generator().manual_seed(seed)
        self._order, self._used, self._before = episodes[:0], 0, self._generator.get_state()

    def take(self, count: int) -> Rows:
        """Returns the next episodes [count]."""
        taken: list[int] = []
        while len(taken) < count:
            if self._used == len(self._order):
                self._shuffle()
            part = self._order[self._used : self._used + count - len(taken)]
            self._used += len(part)
            taken += part.tolist()
        return np.array(taken, np.int64)

    def _shuffle(self) -> None:
        self._before = self._generator.get_state()
        order = torch.randperm(len(self._episodes), generator=self._generator).numpy()
        self._order, self._used = self._episodes[order], 0

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the state as tensors and as JSON values."""
        return {"generator": self._before}, {"used": self._used}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restores a state from `save`, for the same episodes."""
        self._generator.set_state(tensors["generator"])
        if state["used"]:
            self._shuffle()
            self._used = int(state["used"])


@final
class EpisodeWalk:
    """Rows of episodes in random order, for each member in an order of its own."""

    def __init__(self, data: Dataset, learn: Rows, context: SourceContext) -> None:
        """Walks through the episodes of the rows `learn` of a dataset."""
        self._starts, self._ends = data.starts, data.ends
        self.episodes: Rows = np.unique(data.episode_of(learn))
        seeds = [derive(context.seed, "episodes", member) for member in range(context.members)]
        self._orders = [EpisodeOrder(self.episodes, seed) for seed in seeds]
        self.count = max(1, context.batch // context.sequence)  # streams, or episodes in a batch, for each member
        self._length = context.sequence
        # [members, streams] next row and end of the episode in each stream
        self._row = np.zeros((context.members, self.count), np.int64)
        self._end = self._row.copy()

    def stream_rows(self) -> Rows:
        """Returns the next rows [members, B, L] of B streams, each of which goes from episode to episode."""
        rows = np.empty((*self._row.shape, self._length), np.int64)
        for step in range(self._length):
            over = self._row == self._end
            if over.any():
                for member, order in enumerate(self._orders):
                    taken = order.take(int(over[member].sum()))
                    self._row[member, over[member]] = self._starts[taken]
                    self._end[member, over[member]] = self._ends[taken]
            rows[:, :, step] = self._row
            self._row += 1
        return rows

    def next_episodes(self) -> tuple[Rows, NDArray[np.bool_]]:
        """Returns the rows [members, B, T] of the next B episodes, and which of them are valid; see `padded`."""
        return self.padded(np.stack([order.take(self.count) for order in self._orders]))

    def padded(self, episodes: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """Returns the rows [..., T] of episodes [...] and which of them are valid.

        T is the length of the longest. The padding behind the others repeats their last row and is not valid.
        """
        starts, ends = self._starts[episodes][..., None], self._ends[episodes][..., None]
        rows = starts + np.arange(int((ends - starts).max()))
        return np.minimum(rows, ends - 1), rows < ends

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the state as tensors and as JSON values."""
        tensors = {"row": torch.from_numpy(self._row), "end": torch.from_numpy(self._end)}
        states = []
        for member, order in enumerate(self._orders):
            saved, state = order.save()
            tensors |= {f"order{member}/{name}": value for name, value in saved.items()}
            states.append(state)
        return tensors, {"orders": states}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restores a state from `save`, for the same dataset."""
        self._row[:], self._end[:] = tensors["row"].numpy(), tensors["end"].numpy()
        for member, order in enumerate(self._orders):
            order.restore({"generator": tensors[f"order{member}/generator"]}, state["orders"][member])
