"""Configuration of a training stage."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from lfd.agents import REWARD, Agent
from lfd.algos import MISSING
from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.sources import Source
from lfd.sources.dataset import DatasetSource
from lfd.sources.use import SourceUse
from lfd.stages import PipelineContext, Product, Stage, positive
from lfd.stages.policies import split_name
from lfd.stages.sizes import least_row_bytes


@dataclass
class Stop:
    """Rules that end the training before `steps`; a rule is off if null."""

    score: float | None = None  # least mean return of an evaluation
    success_rate: float | None = None  # least share of successful episodes of an evaluation, in [0, 1]
    plateau: int | None = None  # evaluations in a row without a new best score
    env_steps: int | None = None  # transitions taken from environments
    rounds: int | None = None  # rounds of phases
    seconds: float | None = None  # of training, over all sessions

    def __post_init__(self) -> None:
        for name in ("success_rate", "plateau", "env_steps", "rounds", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"stop.{name}: expected a number above 0 or null, got {value}")


@dataclass
class EvalConfig:
    """Evaluation during training. It has random numbers of its own, so `every` changes no bits of the training."""

    every: int = 1_000  # gradient steps between evaluations; 0 = never
    episodes: int = 10  # from the same start states at every evaluation
    num_envs: int | None = field(default=None, metadata={"key": "set"})  # episodes in parallel; null: all, at most 16

    def __post_init__(self) -> None:
        for name, low in (("every", 0), ("episodes", 1), ("num_envs", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"eval.{name}: expected {low} or more, got {value}")


@dataclass
class FitConfig(Stage, ABC):
    """Which algorithm a training stage runs, for how long, and how often it is evaluated."""

    unit: ClassVar[str] = "gradient steps"
    resumes_after_error: ClassVar[bool] = True  # its last checkpoint is from before the error

    algo: Algo = MISSING  # type: ignore[assignment]
    steps: int = MISSING  # type: ignore[assignment] # gradient steps
    seed: int = 0  # of weights, batches, environments and evaluations
    members: int = 1  # agents trained at once, with seeds of their own
    init_from: str = ""  # stage whose policy it copies the weights of common modules from
    # Role -> stage ("<stage>@<k>" for a snapshot of it) whose agent losses read and no loss trains; the agent of role
    # "reward" replaces the environment's reward.
    frozen: dict[str, str] = field(default_factory=dict)
    reset_every: int = 10_000  # gradient steps between resets of the environments; checkpoints are saved there
    snapshots: int = 0  # earlier states that the product keeps, "<stage>@0" the first, spread evenly over evaluations
    eval: EvalConfig = field(default_factory=EvalConfig)  # evaluation while training
    stop: Stop = field(default_factory=Stop)  # what ends the training before its steps are done

    def __post_init__(self) -> None:
        if isinstance(self.steps, int):
            positive(self, steps=self.steps, members=self.members, reset_every=self.reset_every)
        if self.snapshots < 0:
            raise UserError(f"snapshots: expected 0 or more, got {self.snapshots}")
        if self.uses_evaluations and not self.eval.every:
            raise UserError("eval.every: stop rules on scores and snapshots need a number above 0, got 0")

    @property
    def uses_evaluations(self) -> bool:
        """True if stop rules or snapshots use evaluation results."""
        rules = (self.stop.score, self.stop.success_rate, self.stop.plateau)
        return self.snapshots > 0 or any(rule is not None for rule in rules)

    @property
    def extendable_fields(self) -> tuple[str, ...]:
        # Which snapshots are kept, and so which are still there, depends on the length.
        return () if self.snapshots else ("steps",)

    def sources(self) -> dict[str, Source]:
        """The algorithm's sources, and a `DatasetSource` for every other name that losses or mixes read."""
        sources = dict(self.algo.sources)
        names = [name for loss in self.algo.losses.values() for name, _ in loss.slots.values()]
        names += [part for source in sources.values() for part in source.parts()]
        return sources | {name: DatasetSource() for name in names if name not in sources}

    def read_sources(self) -> dict[str, Source]:
        """The sources that some loss reads, directly, through a mix, or through a replay of them."""
        sources = self.sources()
        names = [name for loss in self.algo.losses.values() for name, _ in loss.slots.values()]
        for name in names:
            others = [*sources[name].parts(), *(other for other in sources[name].reads() if other in sources)]
            names += [other for other in others if other not in names]
        return {name: sources[name] for name in dict.fromkeys(names)}

    def columns_read(self) -> dict[str, frozenset[str]]:
        """The columns that losses read, by source; a source that only another one follows has none."""
        columns: dict[str, frozenset[str]] = {}
        for loss in self.algo.losses.values():
            for name, needed in loss.slots.values():
                columns[name] = columns.get(name, frozenset()) | frozenset(needed)
        followed = [other for source in self.read_sources().values() for other in source.reads()]
        return columns | {name: frozenset() for name in followed if name in self.algo.sources and name not in columns}

    def inputs(self) -> dict[str, Product]:
        products = {
            name: Product.dataset for key, source in self.read_sources().items() for name in source.products(key)
        }
        products |= {name: Product.labels for source in self.read_sources().values() for name in source.experts()}
        if self.init_from:
            products[self.init_from] = Product.policy
        for role, product in self.frozen.items():
            products[split_name(product)[0]] = Product.reward if role == REWARD else Product.policy
        return products

    def _mix_of(self, source: str) -> str | None:
        """The mix that a source is a part of."""
        read = self.read_sources()
        return next((name for name in reversed(read) if source in read[name].parts()), None)

    def round_length(self) -> tuple[int, int]:
        """The gradient steps in a round of phases that set `steps`, and the epochs of those that set `epochs`."""
        phases = self.algo.phases.values()
        return sum(phase.steps for phase in phases), sum(phase.epochs for phase in phases if not phase.steps)

    def batch_of(self, source: str) -> tuple[int, str, float]:
        """The rows of the batch that a source is a part of, the key that sets them, and its fraction of it."""
        mix = self._mix_of(source)
        if mix is not None:
            batch, key, share = self.batch_of(mix)
            return batch, key, share * self.sources()[mix].parts()[source]
        own = self.sources()[source].batch_size
        return (
            (self.algo.batch_size, "algo.batch_size", 1.0)
            if own is None
            else (own, f"algo.sources.{source}.batch_size", 1.0)
        )

    def use_of(self, source: str, name: str, context: PipelineContext, learned_reward: bool = False) -> SourceUse:
        """How the stage, under this name, reads one of its sources."""
        round_steps, round_epochs = self.round_length()
        on_policy_steps = sum(phase.steps for phase in self.algo.phases.values() if phase.on_policy_only)
        batch, key, share = self.batch_of(source)
        sources = self.sources()
        return SourceUse(
            stage=name, name=source, sources=sources,
            reads={
                other: self.use_of(other, name, context, learned_reward)
                for other in sources[source].reads() if other in sources and sources[other].is_recordable
            },
            columns=self.columns_read().get(source, frozenset()),
            batch=batch, batch_key=f"{name}: {key}", mix=self._mix_of(source), share=share,
            sequence=self.algo.sequence_length, members=self.members,
            learned_reward=learned_reward, steps=self.steps, reset_every=self.reset_every, rounds=self.stop.rounds,
            round_steps=round_steps, round_epochs=round_epochs,
            collecting=(round_steps - on_policy_steps) / round_steps if round_steps > on_policy_steps else 1.0,
            row_bytes=least_row_bytes(context.spaces, context.stack), store=context.store,
        )  # fmt: skip

    def provides(self) -> frozenset[Product]:
        """A policy if its agent acts, a reward if a loss trains one."""
        provided = {Product.policy, Product.actor, Product.labels} if self.algo.agent.acts else set()
        if any(REWARD in loss.trains for loss in self.algo.losses.values()):
            provided.add(Product.reward)
        return frozenset(provided)

    @property
    def fixed_shapes(self) -> bool:
        """True if all batches of a source have the same shapes, so that gradient steps may be recorded."""
        return all(source.fixed_shapes for source in self.read_sources().values())

    def interacts(self) -> bool:
        return any(source.interacts for source in self.read_sources().values())

    def length(self) -> int | None:
        return self.steps

    def key_content(self, digest: Callable[[Path], str]) -> Any:
        """Evaluations are part of the key only if stop rules or snapshots use them."""
        return self if self.uses_evaluations else replace(self, eval=EvalConfig())

    def policy_count(self) -> int:
        return self.members

    def untrained_agent(self, spaces: Spaces) -> Agent:
        """The agent with all its modules, before normalization statistics and earlier weights."""
        agent = self.algo.agent_config(spaces).build(spaces)
        if self.algo.normalize_obs:
            agent.normalize_observations()
        return agent

    def amount(self) -> str:
        members = f" × {self.members} members" if self.members > 1 else ""
        return f"{self.steps:,} gradient steps{members}"

    def shortened(self, name: str) -> list[str]:
        ways = [f"set a smaller {name}.steps, a larger {name}.eval.every, fewer {name}.eval.episodes"]
        if name == "expert":
            ways.insert(0, "copy the expert of an earlier run by expert=pretrained expert.path=outputs/runs/…")
        return ways

    def check_stochastic(self, what: str, spaces: Spaces) -> None:
        losses = {name: loss for name, loss in self.algo.losses.items() if "policy" in loss.trains}
        if spaces.actions == "continuous" and losses and all(loss.mode_only for loss in losses.values()):
            name = next(iter(losses))
            raise UserError(
                f"{what} samples actions from a spread that losses.{name} does not train, as it trains the mode alone; "
                f"set stochastic=false, or error=beta_nll of losses.{name}"
            )

    def check_snapshot(self, what: str, index: int) -> None:
        if not self.snapshots and any(source.keeps_round_policies for source in self.read_sources().values()):
            if self.stop.rounds is not None and index >= self.stop.rounds:
                raise UserError(
                    f"{what}: expected a round below stop.rounds={self.stop.rounds}; name an earlier one, or set a "
                    "larger stop.rounds"
                )
            return
        if index >= self.snapshots:
            raise UserError(
                f"{what}: expected a snapshot below snapshots={self.snapshots} of its training stage; set "
                f"snapshots={index + 1} or more there"
            )
        if index >= (evaluations := -(-self.steps // self.eval.every)):
            raise UserError(
                f"{what}: expected a snapshot below the {evaluations} evaluations that steps={self.steps} with "
                f"eval.every={self.eval.every} makes; set a smaller eval.every, or more steps"
            )
