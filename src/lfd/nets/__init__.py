"""Networks by observation: an encoder for what the space is, then a head."""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from lfd.batch import Observation
from lfd.errors import Refused
from lfd.log.progress import tell_once


class Activation(Enum):
    relu = "relu"
    tanh = "tanh"


_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {Activation.relu: nn.ReLU, Activation.tanh: nn.Tanh}


def mlp(sizes: Sequence[int], activation: Activation, layer_norm: bool = False) -> nn.Sequential:
    """Linear layers of these sizes with the activation, and if told so a LayerNorm behind it, between them."""
    if min(sizes) < 1:
        raise Refused(f"layers of {list(sizes)} units; 1 or more in each are expected, as in hidden=[64,64]")
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers += [nn.Linear(inputs, outputs)]
        if index < len(sizes) - 2:
            layers += [_ACTIVATIONS[activation]()]
            if layer_norm:
                layers += [nn.LayerNorm(outputs)]
    return nn.Sequential(*layers)


def orthogonal(net: nn.Module, last_gain: float) -> None:
    """Orthogonal weights of gain sqrt 2, `last_gain` in the last layer, zero biases (Andrychowicz et al. 2021)."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else math.sqrt(2))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def silence(net: nn.Sequential) -> None:
    """Zero weights and biases in the last layer: the answer is 0 whatever is asked, until the first gradient step."""
    last = net[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


class Flat(nn.Module):
    """Any numeric array as a float vector."""

    recordable = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = len(shape)
        self.features = math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-self.axes).float() if self.axes > 1 else x.float()


class OneHot(nn.Module):
    """Integers below n as one-hot vectors."""

    recordable = True

    def __init__(self, n: int) -> None:
        super().__init__()
        self.features = n

    def forward(self, x: Tensor) -> Tensor:
        return (x.unsqueeze(-1) == torch.arange(self.features, device=x.device)).float()


class NatureCNN(nn.Module):
    """Bytes [B, C, H, W] or [B, H, W, C] -> 512 features (Mnih et al. 2015, extended data table 1).

    Grey pictures [B, H, W] have one channel; where several axes are beside the sides, as in a stack of colours
    [B, T, H, W, C], all of them together are the channels.
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
        lead = x.shape[: -self.axes]
        frames = x.reshape(-1, *x.shape[-self.axes :])
        if self.order != tuple(range(self.axes)):
            # With the colours of a pixel side by side a CPU learns from frames up to 1.4 times as fast.
            frames = frames.permute(0, *(1 + axis for axis in self.order)).contiguous()
        frames = frames.reshape(-1, *self.size, self.channels)
        frames = (frames.float() / 255).permute(0, 3, 1, 2)
        features = torch.relu(self.linear(self.convolutions(frames).flatten(1)))
        return features.reshape(*lead, self.features)


class DictEncoder(nn.Module):
    """Every key by the encoder of its space, side by side."""

    recordable = True

    def __init__(self, encoders: dict[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.features = sum(features_of(encoder) for encoder in encoders.values())

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return torch.cat([encoder(x[name]) for name, encoder in self.encoders.items()], dim=-1)


_LEAST_SIDE = 36  # pixels that the Nature CNN needs
_PICTURE = 1_000  # numbers from which on an array that no convolution reads is told of


def picture_sides(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axes that are a picture's height and width, if there are such.

    They are neighbours of 36 pixels or more, those with the least beside them: whatever else an observation has,
    channels and frames of a stack, it has fewer of them than pixels.
    """
    pairs = [(axis, axis + 1) for axis in reversed(range(len(shape) - 1)) if min(shape[axis : axis + 2]) >= _LEAST_SIDE]
    if len(shape) > 4 or not pairs:
        return None
    return min(pairs, key=lambda pair: _count(shape, [axis for axis in range(len(shape)) if axis not in pair]))


def _count(shape: tuple[int, ...], axes: list[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def is_frames(space: gym.Space[Any]) -> bool:
    """Is this a picture of bytes, or a stack of them, large enough for the Nature CNN?"""
    return isinstance(space, gym.spaces.Box) and space.dtype == "uint8" and picture_sides(space.shape) is not None


def has_frames(space: gym.Space[Any]) -> bool:
    return any(map(is_frames, space.values())) if isinstance(space, gym.spaces.Dict) else is_frames(space)


def encoder(space: gym.Space[Any]) -> nn.Module:
    """The encoder of an observation space; raises Refused for spaces that have none."""
    if isinstance(space, gym.spaces.Dict):
        return DictEncoder({name: encoder(part) for name, part in space.items()})
    if isinstance(space, gym.spaces.Discrete):
        return OneHot(int(space.n))
    if is_frames(space):
        return NatureCNN(tuple(space.shape or ()))
    if isinstance(space, gym.spaces.Box):
        if len(space.shape) > 1 and math.prod(space.shape) >= _PICTURE:
            tell_once(
                f"an observation {list(space.shape)} {space.dtype} is read as a vector of {math.prod(space.shape)} "
                f"numbers: convolutions read pictures of uint8 with sides of {_LEAST_SIDE} pixels or more"
            )
        return Flat(space.shape)
    raise Refused(f"no network for the observation space {space}; Box, Discrete or a Dict of these is expected")


def features_of(module: nn.Module) -> int:
    """How many features an encoder gives."""
    features = module.features
    assert isinstance(features, int)
    return features


class Net(nn.Module):
    """Encoder, then an MLP over its features beside further vectors (actions) -> [B, outputs].

    Vectors [K, B, n] are K of each observation [B, ...], which is encoded once -> [K, B, outputs].
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
        # The Nature CNN ends in a layer of 512 of its own: the head on it is linear, as in the papers.
        layers = [] if isinstance(space, gym.Space) and is_frames(space) else hidden
        self.head = mlp([features + extra, *layers, outputs], activation, layer_norm)

    def forward(self, obs: Observation, *vectors: Tensor) -> Tensor:
        features = self.encoder(obs)
        if vectors:
            features = torch.cat([features.expand(*vectors[0].shape[:-1], -1), *vectors], dim=-1)
        result: Tensor = self.head(features)
        return result


class Parameter(nn.Module):
    """One learnt number: a temperature, a multiplier."""

    recordable = True

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self) -> Tensor:
        return self.value
