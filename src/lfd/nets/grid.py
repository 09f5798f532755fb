"""Encoders of grids of cells and of instructions in words, as in MiniGrid and BabyAI."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfd.envs.spaces import Cells, Words

_EMBEDDING = 64  # numbers of an embedding, of a cell and of an instruction
_CHANNELS = 32  # features of a cell


class BagOfWords(nn.Module):
    """Word ids [..., L] -> 64 features, the sum of the words' embeddings; padding adds nothing."""

    recordable = True

    features = _EMBEDDING

    def __init__(self, space: Words) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(len(space.words) + 2, _EMBEDDING, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.embeddings(x.int())
        return embedded.sum(-2)


class GridEncoder(nn.Module):
    """Cells [..., W, H, n], and instructions in words if there are some, -> 128 features.

    The embeddings of a cell's n indices (object, color, state) are summed, mixed to 32 numbers by a linear layer that
    all cells share, and put through a linear layer together. Before and after the mixing, the instructions scale and
    shift every number (FiLM, Perez et al. 2018). Without instructions nothing is scaled.
    """

    recordable = True

    features = 128

    def __init__(self, name: str, cells: Cells, words: Mapping[str, Words]) -> None:
        """`name` is the key of the cells in a Dict observation, `words` are the instructions' spaces by key."""
        super().__init__()
        self.name, self.sizes = name, cells.sizes
        self.embeddings = nn.ModuleList([nn.Embedding(size, _EMBEDDING) for size in cells.sizes])
        self.instructions = nn.ModuleDict({key: BagOfWords(space) for key, space in words.items()})
        if words:
            self.first_film = nn.Linear(_EMBEDDING * len(words), 2 * _EMBEDDING)
            self.second_film = nn.Linear(_EMBEDDING * len(words), 2 * _CHANNELS)
        self.mix = nn.Linear(_EMBEDDING, _CHANNELS)
        self.linear = nn.Linear(math.prod(cells.shape[:2]) * _CHANNELS, self.features)

    def forward(self, x: Any) -> Tensor:
        """`x` is a Dict observation, or the cells alone."""
        cells, instruction = self._embed(x[self.name] if self.name else x), None
        if self.instructions:
            instruction = torch.cat([bag(x[key]) for key, bag in self.instructions.items()], dim=-1)
            cells = _film(cells, self.first_film(instruction))
        mixed: Tensor = self.mix(cells.relu())
        if instruction is not None:
            mixed = _film(mixed, self.second_film(instruction))
        features: Tensor = self.linear(mixed.relu().flatten(-2))
        return features.relu()

    def _embed(self, cells: Tensor) -> Tensor:
        """Summed embeddings [..., W * H, 64] of the indices of every cell."""
        # One lookup in the table of all sums takes less time than one for each index, as every kind of cell is rare.
        table, indices = torch.zeros(1, _EMBEDDING, device=cells.device), cells.flatten(-3, -2).int()
        number = torch.zeros_like(indices[..., 0])
        for position, (embedding, size) in enumerate(zip(self.embeddings, self.sizes, strict=True)):
            weight: Any = embedding.weight
            table = (table.unsqueeze(1) + weight).flatten(0, 1)
            number = number * size + indices[..., position]
        return F.embedding(number, table)


def _film(x: Tensor, parameters: Tensor) -> Tensor:
    """`x` [..., cells, n] scaled by 1 + the first half of `parameters` [..., 2 * n] and shifted by the second."""
    scale, shift = parameters.unsqueeze(-2).chunk(2, dim=-1)
    return torch.addcmul(shift, x, 1 + scale)
