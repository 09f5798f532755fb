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
    """Bytes [B, C, H, W] or [B, H, W, C] -> 512 features (Mnih et al. 2015, extended data table 1)."""

    recordable = True

    features = 512

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.channels_last = shape[-1] <= 4
        channels, *size = (shape[-1], *shape[:-1]) if self.channels_last else shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        )  # fmt: skip
        for kernel, stride in ((8, 4), (4, 2), (3, 1)):
            size = [(side - kernel) // stride + 1 for side in size]
        self.linear = nn.Linear(64 * math.prod(size), self.features)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.reshape(-1, *x.shape[-3:])
        if not self.channels_last:
            # With the colours of a pixel side by side a CPU learns from frames up to 1.4 times as fast.
            frames = frames.permute(0, 2, 3, 1).contiguous()
        frames = (frames.float() / 255).permute(0, 3, 1, 2)
        features = torch.relu(self.linear(self.convolutions(frames).flatten(1)))
        return features.reshape(*x.shape[:-3], self.features)


class DictEncoder(nn.Module):
    """Every key by the encoder of its space, side by side."""

    recordable = True

    def __init__(self, encoders: dict[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.features = sum(features_of(encoder) for encoder in encoders.values())

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return torch.cat([encoder(x[name]) for name, encoder in self.encoders.items()], dim=-1)


def is_frames(space: gym.Space[Any]) -> bool:
    """Is this a stack of byte images, or one with its colours last, large enough for the Nature CNN?"""
    if not isinstance(space, gym.spaces.Box) or space.dtype != "uint8" or len(space.shape) != 3:
        return False
    return min(space.shape[:2] if space.shape[2] <= 4 else space.shape[1:]) >= 36


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
