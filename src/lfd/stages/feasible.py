"""Whether a stage that fits to the others can do what it is told: what it starts from, and how large it is."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lfd.agents import Agent, sketched
from lfd.envs import Spaces
from lfd.errors import Refused
from lfd.hardware import memory
from lfd.sources.replay import Replay
from lfd.stages import Stage
from lfd.stages.building import blank, check_start
from lfd.stages.collect import Collect
from lfd.stages.experts import Pretrained
from lfd.stages.recipe import Recipe

OF_AGENT = 100_000  # bytes of an agent beside its weights


def check_feasible(name: str, stages: Mapping[str, Stage], spaces: Spaces, stack: int, root: Path) -> None:
    """Raise Refused where a stage cannot begin with what it is told to, or would not fit into this machine.

    `stack` is how many frames an observation has that are stored once, `root` where products are kept.
    """
    stage = stages[name]
    if isinstance(stage, Collect):
        rows = (stage.transitions or 0) * _row(spaces, stack)
        _check_disk(f"{name}.transitions={stage.transitions}", rows, root)
        _check_memory(f"{name}.num_envs={stage.num_envs}", stage.num_envs * _row(spaces, 1))
    if not isinstance(stage, Recipe):
        return
    agent = sketched(partial(blank, stage, spaces))
    _check_size(name, stage, agent, spaces, stack, root)
    _check_rows(name, stage, stages)
    if stage.init_from:
        earlier = stages[stage.init_from]
        if isinstance(earlier, Recipe):
            check_start(f"{name}: init_from={stage.init_from}", agent, sketched(partial(blank, earlier, spaces)))
        elif isinstance(earlier, Pretrained):
            check_start(f"{name}: init_from={stage.init_from}", agent, earlier.open(earlier.folder).agents()[0])


def _check_size(name: str, fit: Recipe, agent: Agent, spaces: Spaces, stack: int, root: Path) -> None:
    weights = sum(value.numel() * value.element_size() for value in agent.state_dict().values())
    # Beside the weights there are gradients and two moments.
    what = f"{name}: algo.agent of {weights:,} bytes of weights" + (f", members={fit.members}" * (fit.members > 1))
    _check_memory(what, fit.members * (4 * weights + OF_AGENT))
    batch = fit.members * fit.algo.batch
    _check_memory(f"{name}: algo.batch={fit.algo.batch}", batch * (2 * _row(spaces, 1) + 4 * _widest(agent)))
    for row, source in fit.read().items():
        if isinstance(source, Replay):
            ring = (source.capacity + source.warmup) * _row(spaces, stack) * fit.members
            _check_disk(f"{name}: sources.{row}.capacity={source.capacity}", ring, root)


def _widest(agent: Agent) -> int:
    """Outputs of the widest layer."""
    return max((value.shape[0] for value in agent.parameters() if value.dim() > 1), default=1)


def _check_memory(what: str, needed: int) -> None:
    if needed > (there := memory()):
        raise Refused(f"{what}: {needed:,} bytes of memory are needed, this machine has {there:,}; choose less")


def _check_disk(what: str, needed: int, root: Path) -> None:
    there = shutil.disk_usage(next(place for place in (root, *root.parents) if place.exists())).free
    if needed > there:
        raise Refused(f"{what}: {needed:,} bytes on disk are needed, {there:,} are free; choose less")


def _check_rows(name: str, fit: Recipe, stages: Mapping[str, Stage]) -> None:
    """Refuse a loss that reads more different rows at once than the data will have."""
    table = fit.sources()
    for row, loss in fit.algo.losses.items():
        for source, _ in loss.slots.values():
            for product in table[source].products(source):
                given = stages[product].total() if isinstance(stages[product], Collect) else None
                if loss.rows and given is not None and stages[product].unit == "transitions" and given < loss.rows:
                    raise Refused(
                        f"{name}: losses.{row} reads {loss.rows} different rows at once, {product!r} has {given}; "
                        "collect more, or let it read fewer"
                    )


def _row(spaces: Spaces, stack: int) -> int:
    """Bytes of a transition."""
    seen: Any = spaces.observation
    parts = seen.spaces.values() if isinstance(seen, gym.spaces.Dict) else [seen]
    sizes = [int(np.prod(part.shape or (), dtype=object)) * np.dtype(part.dtype).itemsize for part in parts]
    return sum(sizes) // stack + 8
