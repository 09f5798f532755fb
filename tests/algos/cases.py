"""Batches and spaces that the tests of losses share."""

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from lfd.agents import Agent
from lfd.agents.config import AgentConfig
from lfd.algos import Loss, LossOutput
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.learner.learner import Algo
from lfd.nets import Net
from lfd.rng import GeneratorRng, Rng, ShapeRecorder

VECTOR = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
FRAMES = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
PICTURE = gym.spaces.Box(0, 255, (64, 48, 3), np.uint8)
DICT = gym.spaces.Dict({"pose": VECTOR, "room": gym.spaces.Discrete(5)})
TWO = gym.spaces.Discrete(2)
BOX = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)


def spaces(observation: gym.Space, action: gym.Space) -> Spaces:
    """A pair of spaces; the networks built in them are the same at every call."""
    torch.manual_seed(7)
    return Spaces(observation, action)


def built(config: AgentConfig, spaces: Spaces, *losses: Loss, targets: Sequence[str] = ()) -> Agent:
    """The agent with the nets that the losses bring, and with target networks."""
    agent = Algo(config, {str(index): loss for index, loss in enumerate(losses)}).agent_config(spaces).build(spaces)
    agent.add_target_networks(list(targets))
    return agent


def observations(space: gym.Space, size: int, generator: torch.Generator):
    """Random observations [size, ...] of a space."""
    if isinstance(space, gym.spaces.Dict):
        return {name: observations(part, size, generator) for name, part in space.items()}
    if isinstance(space, gym.spaces.Discrete):
        return torch.randint(int(space.n), (size,), generator=generator)
    if space.dtype == np.uint8:
        return torch.randint(256, (size, *space.shape), generator=generator, dtype=torch.uint8)
    return torch.randn(size, *space.shape, generator=generator)


def batch(observation: gym.Space, action: gym.Space, seed: int, size: int = 8) -> Batch:
    """Random rows with every column that some loss reads; actions are in [-2, 2]."""
    g = torch.Generator().manual_seed(seed)
    if action is TWO:
        taken = torch.randint(2, (size,), generator=g)
    else:
        taken = torch.rand(size, 3, generator=g) * 4 - 2
    columns = {name: torch.randn(size, generator=g) for name in ("reward", "log_prob", "advantage", "value_target")}
    columns["return_to_go"] = torch.randn(size, generator=torch.Generator().manual_seed(seed + 1_000))
    discount = 0.99 * (torch.rand(size, generator=g) > 0.2).float()
    obs, next_obs = observations(observation, size, g), observations(observation, size, g)
    return Batch(obs=obs, action=taken, next_obs=next_obs, next_action=taken.roll(1, 0), discount=discount, **columns)


def pairs(observation: gym.Space, action: gym.Space, seed: int, count: int = 4, length: int = 3) -> Batch:
    """Pairs of pieces [count, 2, length] of random rows; the second piece of each is padded by a row."""
    rows = batch(observation, action, seed, 2 * count * length)
    shaped = rows.map(lambda column: column.reshape(count, 2, length, *column.shape[1:]))
    valid = torch.ones(count, 2, length, dtype=torch.bool)
    valid[:, 1, -1] = False
    return shaped.having(valid=valid, preferred=torch.arange(count) % 2, terminated=shaped.discount == 0)


BATCH = batch(VECTOR, TWO, 1)


def boxed(discrete: Batch) -> Batch:
    """The same rows with continuous actions in network units, [-0.95, 0.95]^3."""
    action = 1.9 * torch.rand(len(discrete.action), 3, generator=torch.Generator().manual_seed(5)) - 0.95
    return discrete.having(action=action, next_action=action.roll(1, 0))


def by_hand(net: Net | nn.Sequential, *inputs: np.ndarray) -> np.ndarray:
    """A network of vectors in numpy and float64, from its weights."""
    x = np.concatenate(inputs, -1)
    for layer in net if isinstance(net, nn.Sequential) else net.head:
        if isinstance(layer, nn.Linear):
            x = x @ float64(layer.weight).T + float64(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            centered = x - x.mean(-1, keepdims=True)
            scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + layer.eps)
            x = scaled * float64(layer.weight) + float64(layer.bias)
        else:
            assert isinstance(layer, nn.ReLU)
            x = np.maximum(x, 0)
    return x


def float64(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def answer(loss: Loss, agent: Agent, rows: Batch, noise: Rng | None = None) -> LossOutput:
    """What the loss says of rows that are in network units already."""
    agent.begin_step(noise or GeneratorRng(2))
    out = loss(agent, rows)
    agent.end_step()
    return out


def drawn(loss: Loss, agent: Agent, rows: Batch) -> list[torch.Tensor]:
    """The same draws at every call, one for each that the loss asks for."""
    sketch, generator = ShapeRecorder(), GeneratorRng(3)
    answer(loss, agent, rows, sketch)
    return [generator.draw(kind, shape) for kind, shape in sketch.requests]


def stir(module: nn.Module, seed: int, scale: float = 0.3) -> None:
    """Move weights by random amounts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def stirred(agent: Agent, names: list[str]) -> Agent:
    """The agent with target networks of these modules that differ from them."""
    agent.add_target_networks(names)
    stir(agent.targets, 1)
    return agent


def gradients(term: torch.Tensor, module: torch.nn.Module) -> list[torch.Tensor]:
    """Of a term by the module's parameters; zeros where it does not depend on one."""
    return list(torch.autograd.grad(term, list(module.parameters()), retain_graph=True, materialize_grads=True))
