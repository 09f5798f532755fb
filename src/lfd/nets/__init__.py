"""Networks: an encoder for the observation space, then a head."""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from lfd.batch import Observation
from lfd.envs.spaces import Cells, Indices, Words
from lfd.errors import UserError
from lfd.log.progress import print_message_once
from lfd.nets.grid import BagOfWords, GridEncoder


class Activation(Enum):
    """Activation of hidden layers."""

    relu = "relu"
    tanh = "tanh"


_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {Activation.relu: nn.ReLU, Activation.tanh: nn.Tanh}


def mlp(sizes: Sequence[int], activation: Activation, layer_norm: bool = False) -> nn.Sequential:
    """Linear layers [B, sizes[0]] -> [B, sizes[-1]] with activations, each followed by a LayerNorm if requested."""
    if min(sizes) < 1:
        raise UserError(f"hidden: expected 1 or more units per layer, as in hidden=[64,64], got {list(sizes[1:-1])}")
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers += [nn.Linear(inputs, outputs)]
        if index < len(sizes) - 2:
            layers += [_ACTIVATIONS[activation]()]
            if layer_norm:
                layers += [nn.LayerNorm(outputs)]
    return nn.Sequential(*layers)


def orthogonal(net: nn.Module, last_gain: float) -> None:
    """Sets orthogonal weights of gain sqrt 2, `last_gain` in the last layer, zero biases (Andrychowicz et al. 2021)."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else math.sqrt(2))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def zero_init_output(net: nn.Sequential) -> None:
    """Sets weights and biases of the last layer to zero: the output is 0 until the first gradient step."""
    last = net[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


class Flatten(nn.Module):
    """Any numeric array [B, ...] as a float vector [B, n]."""

    recordable = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = len(shape)
        self.features = math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Float vectors [..., n] of arrays [..., *shape]."""
        return x.flatten(-self.axes).float() if self.axes > 1 else x.float()


class OneHot(nn.Module):
    """Integers [B] below n as one-hot vectors [B, n]."""

    recordable = True

    def __init__(self, n: int) -> None:
        super().__init__()
        self.features = n

    def forward(self, x: Tensor) -> Tensor:
        """One-hot float vectors [..., n] of integers [...]."""
        return (x.unsqueeze(-1) == torch.arange(self.features, device=x.device)).float()


class OneHots(nn.Module):
    """Integers [B, *shape], each below its own number, as their one-hot vectors side by side [B, n]."""

    recordable = True

    def __init__(self, space: Indices) -> None:
        super().__init__()
        self.axes = len(space.shape)
        self.parts = nn.ModuleList([OneHot(int(size)) for size in space.sizes.ravel()])
        self.features = int(space.sizes.sum())

    def forward(self, x: Tensor) -> Tensor:
        """One-hot float vectors [..., n] of integers [..., *shape]."""
        flat = x.flatten(-self.axes)
        return torch.cat([part(flat[..., index]) for index, part in enumerate(self.parts)], dim=-1)


class NatureCNN(nn.Module):
    """Bytes [B, C, H, W] or [B, H, W, C] -> 512 features (Mnih et al. 2015, extended data table 1).

    Gray images [B, H, W] have one channel; several axes besides height and width, as in a stack of color images
    [B, T, H, W, C], are combined to channels.
    """

    recordable = True

    features = 512

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        sides = picture_sides(shape)
        assert sides is not None
        others = [axis for axis in range(len(shape)) if axis not in sides]
        self.order = (*sides, *others)
        self.axes, self.size, self.channels = len(shape), (shape[sides[0]], shape[sides[1]]), _count(shape, others)
        channels, size = self.channels, list(self.size)
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        )  # fmt: skip
        for kernel, stride in ((8, 4), (4, 2), (3, 1)):
            size = [(side - kernel) // stride + 1 for side in size]
        self.linear = nn.Linear(64 * math.prod(size), self.features)

    def forward(self, x: Tensor) -> Tensor:
        """Features [..., 512] of frames [..., *shape], uint8."""
        lead = x.shape[: -self.axes]
        frames = x.reshape(-1, *x.shape[-self.axes :])
        if self.order != tuple(range(self.axes)):
            # with adjacent channels a CPU trains up to 1.4 times as fast
            frames = frames.permute(0, *(1 + axis for axis in self.order)).contiguous()
        frames = frames.reshape(-1, *self.size, self.channels)
        frames = (frames.float() / 255).permute(0, 3, 1, 2)
        features = torch.relu(self.linear(self.convolutions(frames).flatten(1)))
        return features.reshape(*lead, self.features)


class DictEncoder(nn.Module):
    """A Dict observation: the features of every key by the encoder of its space, concatenated to [B, features].

    A `GridEncoder` reads the whole observation, of which its key names the cells.
    """

    recordable = True

    def __init__(self, encoders: dict[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.features = sum(features_of(encoder) for encoder in encoders.values())

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Features [..., n] of the keys' observations [..., *shape]."""
        features = [
            encoder(x if isinstance(encoder, GridEncoder) else x[name]) for name, encoder in self.encoders.items()
        ]
        return torch.cat(features, dim=-1) if len(features) > 1 else features[0]


_MIN_SIDE = 36  # pixels, minimum height and width for the Nature CNN
_LARGE_ARRAY = 1_000  # numbers from which a message says that an array is read without convolutions


def picture_sides(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axes of an image's height and width, or None.

    They are neighboring axes of 36 pixels or more; of several such pairs, the one with the fewest numbers on the other
    axes, as an observation has fewer channels and stacked frames than pixels.
    """
    pairs = [(axis, axis + 1) for axis in reversed(range(len(shape) - 1)) if min(shape[axis : axis + 2]) >= _MIN_SIDE]
    if len(shape) > 4 or not pairs:
        return None
    return min(pairs, key=lambda pair: _count(shape, [axis for axis in range(len(shape)) if axis not in pair]))


def _count(shape: tuple[int, ...], axes: list[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def is_frames(space: gym.Space[Any]) -> bool:
    """True for an image of bytes, or a stack of them, that is large enough for the Nature CNN."""
    return (
        isinstance(space, gym.spaces.Box)
        and not isinstance(space, Cells)
        and space.dtype == "uint8"
        and picture_sides(space.shape) is not None
    )


def has_frames(space: gym.Space[Any]) -> bool:
    """True if the space, or a part of it, `is_frames`."""
    return any(map(is_frames, space.values())) if isinstance(space, gym.spaces.Dict) else is_frames(space)


def encoder(space: gym.Space[Any]) -> nn.Module:
    """The encoder of an observation space. Raises UserError for spaces that have none."""
    if isinstance(space, gym.spaces.Dict):
        return _dict_encoder(space)
    if isinstance(space, gym.spaces.Discrete):
        return OneHot(int(space.n))
    if isinstance(space, Cells):
        return GridEncoder("", space, {})
    if isinstance(space, Indices):
        return OneHots(space)
    if isinstance(space, Words):
        return BagOfWords(space)
    if is_frames(space):
        return NatureCNN(tuple(space.shape or ()))
    if isinstance(space, gym.spaces.Box):
        if len(space.shape) > 1 and math.prod(space.shape) >= _LARGE_ARRAY:
            print_message_once(
                f"an observation {list(space.shape)} {space.dtype} is read as a vector of {math.prod(space.shape)} "
                f"numbers: convolutions read pictures of uint8 with sides of {_MIN_SIDE} pixels or more"
            )
        return Flatten(space.shape)
    raise UserError(f"the observation space: expected Box, Discrete, MultiDiscrete or a Dict of these, got {space}")


def _dict_encoder(space: gym.spaces.Dict) -> DictEncoder:
    """The encoders of a Dict's parts; the words of a grid of cells condition its encoder instead."""
    words = {name: part for name, part in space.items() if isinstance(part, Words)}
    grids = {name: GridEncoder(name, part, words) for name, part in space.items() if isinstance(part, Cells)}
    parts = {name: part for name, part in space.items() if name not in grids and not (grids and name in words)}
    return DictEncoder({**grids, **{name: encoder(part) for name, part in parts.items()}})


def features_of(module: nn.Module) -> int:
    """The number of features that an encoder returns."""
    features = module.features
    assert isinstance(features, int)
    return features


class Net(nn.Module):
    """An encoder, then an MLP of its features and further vectors [B, n] such as actions -> [B, outputs].

    With vectors [K, B, n], K of each observation [B, ...], the observation is encoded once -> [K, B, outputs].
    """

    recordable = True

    def __init__(
        self,
        space: gym.Space[Any] | int,
        hidden: Sequence[int],
        outputs: int,
        activation: Activation = Activation.relu,
        extra: int = 0,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder(space) if isinstance(space, gym.Space) else nn.Identity()
        features = features_of(self.encoder) if isinstance(space, gym.Space) else space
        # the Nature CNN ends in a hidden layer of 512 units, and its head is linear, as in the papers
        layers = [] if isinstance(space, gym.Space) and is_frames(space) else hidden
        self.head = mlp([features + extra, *layers, outputs], activation, layer_norm)

    def forward(self, obs: Observation, *vectors: Tensor) -> Tensor:
        """Outputs [..., outputs] of observations [..., *shape] and further inputs [..., n], `extra` numbers in all."""
        features = self.encoder(obs)
        if vectors:
            features = torch.cat([features.expand(*vectors[0].shape[:-1], -1), *vectors], dim=-1)
        result: Tensor = self.head(features)
        return result


class Scalar(nn.Module):
    """One trained number [], such as a temperature or a multiplier."""

    recordable = True

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self) -> Tensor:
        """The number []."""
        return self.value
