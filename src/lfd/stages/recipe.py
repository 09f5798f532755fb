"""What a fit is told."""

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from lfd.agents import REWARD
from lfd.algos import MISSING
from lfd.envs import Spaces
from lfd.errors import Refused
from lfd.learner import Algo
from lfd.sources import Source
from lfd.sources.dataset import Demonstrations
from lfd.sources.interactive import Interactive
from lfd.stages import Product, Stage, positive
from lfd.stages.collect import split_name


@dataclass
class Stop:
    """When a fit ends before its steps are done; each is off when null."""

    score: float | None = None  # mean return of a check
    success_rate: float | None = None  # of a check
    plateau: int | None = None  # checks in a row without a new best score
    env_steps: int | None = None  # transitions taken from environments
    rounds: int | None = None  # of phases
    seconds: float | None = None  # of training, over all sessions

    def __post_init__(self) -> None:
        for name in ("success_rate", "plateau", "env_steps", "rounds", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise Refused(f"stop.{name} is {value}; a number above 0, or null, is expected")


@dataclass
class Checks:
    """Evaluation while training. It draws from a stream of its own, so its cadence moves no bits."""

    every: int = 1_000  # gradient steps; 0 = never
    episodes: int = 10
    num_envs: int | None = field(default=None, metadata={"key": "set"})  # played side by side; all, but 16, when null

    def __post_init__(self) -> None:
        if self.every < 0 or self.episodes < 1:
            raise Refused(f"check {self}: every is 0 or more gradient steps, episodes 1 or more")
        if self.num_envs is not None and self.num_envs < 1:
            raise Refused(f"check.num_envs is {self.num_envs}; 1 or more, or null, is expected")


@dataclass
class Recipe(Stage, ABC):
    """Which algorithm for how long, and when to look."""

    gives: ClassVar[Product] = Product.policy
    unit: ClassVar[str] = "gradient steps"
    goes_on: ClassVar[bool] = True  # its checkpoints are from before

    algo: Algo = MISSING  # type: ignore[assignment]
    steps: int = MISSING  # type: ignore[assignment] # gradient steps
    seed: int = 0
    members: int = 1  # agents trained at once, with seeds of their own
    init_from: str = ""  # a policy whose modules it starts from
    # Role -> product ("<name>@<k>" for an earlier state of it) that losses may read and nothing changes; that of role
    # "reward" replaces the environment's reward.
    frozen: dict[str, str] = field(default_factory=dict)
    boundary: int = 10_000  # gradient steps between resets of the environments, where checkpoints are made
    checkpoints: int = 0  # earlier states kept as products: "<name>@0" is the first, spread evenly over the checks
    check: Checks = field(default_factory=Checks)
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        if isinstance(self.steps, int):
            positive(self, steps=self.steps, members=self.members, boundary=self.boundary)
        if self.checkpoints < 0:
            raise Refused(f"checkpoints is {self.checkpoints}; 0 or more are expected")
        if self.reads_checks and not self.check.every:
            raise Refused("rules of stop on scores, and checkpoints, need check.every above 0")

    @property
    def reads_checks(self) -> bool:
        """Does anything but the eye of a person depend on the checks?"""
        rules = (self.stop.score, self.stop.success_rate, self.stop.plateau)
        return self.checkpoints > 0 or any(rule is not None for rule in rules)

    @property
    def length_fields(self) -> tuple[str, ...]:
        # Which snapshots are kept, and so which are still there, depends on the length.
        return () if self.checkpoints else ("steps",)

    def sources(self) -> dict[str, Source]:
        """The algorithm's sources, and a plain dataset source for every other name that is read."""
        rows = dict(self.algo.sources)
        names = [name for loss in self.algo.losses.values() for name, _ in loss.slots.values()]
        names += [part for source in rows.values() for part in source.parts()]
        return rows | {name: Demonstrations() for name in names if name not in rows}

    def read(self) -> dict[str, Source]:
        """The sources that some loss reads, directly or through a mix."""
        table = self.sources()
        names = [name for loss in self.algo.losses.values() for name, _ in loss.slots.values()]
        for name in names:
            names += [part for part in table[name].parts() if part not in names]
        return {name: table[name] for name in dict.fromkeys(names)}

    def inputs(self) -> dict[str, Product]:
        products = {name: Product.dataset for key, source in self.read().items() for name in source.products(key)}
        products |= {name: Product.labels for source in self.read().values() for name in source.experts()}
        if self.init_from:
            products[self.init_from] = Product.policy
        for role, product in self.frozen.items():
            products[split_name(product)[0]] = Product.reward if role == REWARD else Product.policy
        return products

    def offers(self, product: Product) -> bool:
        """A policy if its agent acts, a reward if a loss trains one."""
        if product is Product.reward:
            return any(REWARD in loss.trains for loss in self.algo.losses.values())
        return product in (Product.policy, Product.actor, Product.labels) and self.algo.agent.acts

    def interacts(self) -> bool:
        return any(source.interacts for source in self.read().values())

    def check_offline(self, name: str) -> None:
        super().check_offline(name)
        if self.reads_checks:
            raise Refused(f"{name}: stop rules on scores and checkpoints need episodes, of which env=none has none")

    def total(self) -> int | None:
        return self.steps

    def material(self, digest: Callable[[Path], str]) -> Any:
        """Checks count only where something reads them."""
        return self if self.reads_checks else replace(self, check=Checks())

    def check_inputs(self, name: str, stages: Mapping[str, Stage], spaces: Spaces) -> None:
        for role, product in self.frozen.items():
            base, snapshot = split_name(product)
            other = stages[base]
            other.check_snapshot(f"{name}: frozen.{role}={product}", snapshot)
            if isinstance(other, Recipe) and other.members > 1:
                raise Refused(
                    f"{name}: frozen.{role}={product} has {other.members} members; a single agent is expected"
                )

    def check_sampled(self, what: str, spaces: Spaces) -> None:
        teachers = {row: loss for row, loss in self.algo.losses.items() if "policy" in loss.trains}
        if spaces.actions == "continuous" and teachers and all(loss.mode_only for loss in teachers.values()):
            row = next(iter(teachers))
            raise Refused(
                f"{what} draws actions from a spread that losses.{row} does not train, as it looks at the mode alone; "
                "set it to false, or error=beta_nll of that loss"
            )

    def check_snapshot(self, what: str, index: int | None) -> None:
        in_rounds = any(isinstance(source, Interactive) for source in self.read().values())
        if index is None:
            return
        if in_rounds and not self.checkpoints:
            # Whoever drove in a round is kept.
            if self.stop.rounds is not None and index >= self.stop.rounds:
                raise Refused(
                    f"{what}: there are {self.stop.rounds} rounds, counted from 0; set stop.rounds, or ask less"
                )
            return
        if index >= self.checkpoints:
            raise Refused(
                f"{what}: checkpoints={self.checkpoints} keeps that many earlier states, counted from 0; set "
                f"checkpoints={index + 1} or more where it is trained"
            )
        if index >= (checks := -(-self.steps // self.check.every)):
            raise Refused(
                f"{what}: steps={self.steps} with check.every={self.check.every} makes {checks} checks, each of which "
                "may keep one state, counted from 0; check more often, or train longer"
            )
