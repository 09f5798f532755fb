"""What a fit is told, and whether it fits together."""

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from lfd.agents import REWARD, Agent
from lfd.agents.judge import RecurrentReward
from lfd.algos import MISSING, Loss
from lfd.envs import Spaces
from lfd.errors import Refused, nearest
from lfd.learner import Algo
from lfd.sources import Source
from lfd.sources.dataset import Demonstrations
from lfd.sources.interactive import Interactive
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
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

    def __post_init__(self) -> None:
        if self.every < 0 or self.episodes < 1:
            raise Refused(f"check {self}: every is 0 or more gradient steps, episodes 1 or more")


@dataclass
class Recipe(Stage, ABC):
    """Which algorithm for how long, and when to look."""

    gives: ClassVar[Product] = Product.policy
    unit: ClassVar[str] = "gradient steps"

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

    def check_wiring(self, name: str, spaces: Spaces, datasets: list[str]) -> None:
        """Raise Refused where losses, sources, agent and spaces do not fit together."""
        algo, kind = self.algo, type(self.algo.agent).__name__
        if not algo.losses:
            raise Refused(f"{name}: the algorithm has no losses for {spaces.actions} actions; choose another algo=")
        if spaces.actions not in algo.agent.actions:
            acts = ", ".join(algo.agent.actions)
            raise Refused(f"{name}: {kind} acts in {acts} action spaces, the environment's is {spaces.actions}")
        if self.reads_checks and not algo.agent.acts:
            raise Refused(f"{name}: {kind} does not act: stop rules on scores and checkpoints have nothing to look at")
        self._check_sources(name)
        agent = algo.agent.build(spaces)
        for row, loss in algo.losses.items():
            self._check_modules(f"{name}: losses.{row}", loss, agent)
            self._check_columns(name, row, loss, datasets)
        self._check_names(name, agent)
        self._check_memory(name, agent)
        self._check_reward(name, agent)

    def check_inputs(self, name: str, stages: Mapping[str, Stage]) -> None:
        for role, product in self.frozen.items():
            other = stages[split_name(product)[0]]
            if isinstance(other, Recipe) and other.members > 1:
                raise Refused(
                    f"{name}: frozen.{role}={product} has {other.members} members; a single agent is expected"
                )

    def _check_sources(self, name: str) -> None:
        table = self.sources()
        direct = [source for loss in self.algo.losses.values() for source, _ in loss.slots.values()]
        opened = list(dict.fromkeys(direct))
        for source in dict.fromkeys(direct):
            parts = _parts(table, source)
            if source in parts:
                raise Refused(f"{name}: sources.{source} mixes itself; list the sources that give its rows")
            opened += parts
        for source in set(opened):
            # Each would have environments of its own, and interact as often.
            if opened.count(source) > 1 and table[source].interacts:
                raise Refused(f"{name}: {source!r} is read in two ways; read it directly, or through one mix")
        fed = [key for key, one in self.read().items() if isinstance(one, Rollout | Interactive) or one.products(key)]
        if self.algo.normalize_obs and not fed:
            raise Refused(
                f"{name}: normalize_obs needs a dataset or a rollout, from which statistics come; set it to false"
            )

    def _check_modules(self, what: str, loss: Loss, agent: Agent) -> None:
        if not isinstance(agent, loss.agents):
            wanted = f"{loss.calls}, which a {loss.agents.__name__} has" if loss.calls else f"a {loss.agents.__name__}"
            raise Refused(f"{what} ({type(loss).__name__}) needs {wanted}, algo.agent builds a {type(agent).__name__}")
        if loss.rows not in (None, self.algo.batch):
            raise Refused(
                f"{what} reads {loss.rows} rows at once, algo.batch is {self.algo.batch}; set it to {loss.rows}"
            )
        for target in loss.targets:
            if target not in self.algo.targets:
                raise Refused(f"{what} reads a slow copy of {target!r}; add targets: {{{target}: {{tau: 0.005}}}}")
        agent.add(loss.modules(agent))

    def _check_names(self, name: str, agent: Agent) -> None:
        """Names of modules in `targets` and `optim`, and of losses in `phases`."""
        for key, table in (("targets", self.algo.targets), ("optim", self.algo.optim)):
            for module in table:
                if module not in agent.nets:
                    near = nearest(module, agent.nets)
                    raise Refused(f"{name}: {key}.{module} names no module of {type(agent).__name__}; {near}")
        for phase, content in self.algo.phases.items():
            if not content.losses:
                raise Refused(f"{name}: phases.{phase} has no losses; {nearest('', self.algo.losses)}")
            for row in content.losses:
                if row not in self.algo.losses:
                    raise Refused(f"{name}: phases.{phase} names the loss {row!r}; {nearest(row, self.algo.losses)}")
        phased = {row for content in self.algo.phases.values() for row in content.losses}
        for row in self.algo.losses:
            if phased and row not in phased:
                raise Refused(f"{name}: losses.{row} is in no phase and would never run; add it to one of phases")

    def _check_memory(self, name: str, agent: Agent) -> None:
        length, kind = self.algo.sequence, type(agent).__name__
        if agent.recurrent and length == 1:
            raise Refused(f"{name}: {kind} has a memory and learns from sequences; set algo.sequence, 16 for example")
        if length > 1 and not agent.recurrent:
            raise Refused(f"{name}: algo.sequence={length} is for agents with memory, {kind} has none; set it to 1")
        if self.algo.batch % length:
            raise Refused(f"{name}: algo.batch={self.algo.batch} is not a multiple of algo.sequence={length}")
        for row, source in self.read().items():
            if isinstance(source, Rollout) and source.num_envs * source.steps < self.algo.batch:
                held = source.num_envs * source.steps
                raise Refused(
                    f"{name}: algo.batch={self.algo.batch} is more than the {held} rows of a collection of {row}"
                )
            if isinstance(source, Rollout) and source.steps % length:
                raise Refused(f"{name}: steps={source.steps} of {row} is not a multiple of algo.sequence={length}")
            if isinstance(source, Replay) and length > 1 and source.priority:
                raise Refused(
                    f"{name}: {row} draws single transitions by priority; set its priority to 0 for sequences"
                )
            if isinstance(source, Rollout) and self.members > 1 and source.kl_stop is not None:
                raise Refused(f"{name}: members go on together and kl_stop of {row} would part them; set it to null")

    def _check_reward(self, name: str, agent: Agent) -> None:
        if REWARD in agent.nets and REWARD in self.frozen:
            raise Refused(f"{name}: a loss trains a reward and frozen.reward gives another; leave one of them out")
        if self.algo.agent.acts and REWARD in agent.nets and isinstance(agent.nets[REWARD], RecurrentReward):
            raise Refused(
                f"{name}: this reward pays each step once, when it is taken, and has to be learnt before; "
                "train it in a stage of its own (algo.agent: judge) and set frozen.reward to that"
            )
        if REWARD not in agent.nets and REWARD not in self.frozen:
            return
        self._check_rewarded(name)
        for row, loss in self.algo.losses.items():
            for source_name, columns in loss.slots.values():
                if REWARD in loss.trains and "next_obs" in columns:
                    self._check_single_steps(f"{name}: losses.{row}", source_name)

    def _check_rewarded(self, name: str) -> None:
        """What reads rewards, where a learnt one takes their place."""
        read = {
            column for loss in self.algo.losses.values() for _, columns in loss.slots.values() for column in columns
        }
        if REWARD in self.frozen and not read & {"reward", "advantage", "value_target"}:
            raise Refused(
                f"{name}: frozen.reward={self.frozen[REWARD]} and no loss of the algorithm reads a reward; choose one "
                "that does, as in algo@learner=ppo"
            )
        if "return_to_go" in read:
            raise Refused(
                f"{name}: return_to_go is of the data's own rewards and another reward takes their place; relabel the "
                "data with that first, or leave out what reads it (calibrated of CQL)"
            )
        for row, source in self.read().items():
            if isinstance(source, Demonstrations | Replay) and source.reward is not None:
                raise Refused(f"{name}: {row} takes a learnt reward and has a constant one; set its reward to null")
            if isinstance(source, Demonstrations) and source.return_range is not None:
                raise Refused(f"{name}: {row} takes a learnt reward, which is not scaled; set its return_range to null")

    def _check_single_steps(self, what: str, name: str) -> None:
        table = self.sources()
        for each in (name, *table[name].parts()):
            source = table[each]
            if isinstance(source, Demonstrations | Replay) and source.n_step > 1:
                raise Refused(
                    f"{what} judges single steps and {each} gives {source.n_step} at once; set its n_step to 1"
                )

    def _check_columns(self, name: str, row: str, loss: Loss, datasets: list[str]) -> None:
        table = self.sources()
        for source_name, needs in loss.slots.values():
            names = [source_name, *table[source_name].parts()]
            for each in names:
                for product in table[each].products(each):
                    if product not in datasets:
                        known = sorted({*datasets, *self.algo.sources})
                        near = nearest(product, known)
                        raise Refused(f"{name}: losses.{row} reads {product!r}, which no stage or source gives; {near}")
            missing = sorted(set(needs) - table[source_name].gives(table))
            if missing:
                kind = type(table[source_name]).__name__
                raise Refused(
                    f"{name}: losses.{row} ({type(loss).__name__}) needs the columns {', '.join(missing)}, which "
                    f"{source_name!r} ({kind}) does not give; {_who_gives(missing)}"
                )


def _parts(table: Mapping[str, Source], name: str) -> list[str]:
    """What a source draws from, through however many mixes."""
    parts: list[str] = []
    waiting = list(table[name].parts())
    while waiting:
        part = waiting.pop()
        if part not in parts:
            parts.append(part)
            waiting += table[part].parts()
    return parts


def _who_gives(columns: list[str]) -> str:
    on_policy = {"log_prob", "value", "advantage", "value_target"}
    if set(columns) & {"preferred", "valid"}:
        return "read a snippets source"
    return "read a rollout source" if set(columns) <= on_policy else "read a dataset source"
