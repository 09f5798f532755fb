"""The gradient step: losses, gradients by module group, optimisers, slow copies, members."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.utils._pytree import tree_leaves

from lfd.agents import Agent, AgentSpec
from lfd.algos import MISSING, Loss, Out
from lfd.batch import Batch
from lfd.capture import Captured
from lfd.errors import Refused
from lfd.log.progress import tell
from lfd.noise import Generated, Noise, Sketched, Taped, derive
from lfd.optim import Descent, Optim
from lfd.purity import alike, declares, undeclared
from lfd.schedule import schedule
from lfd.sources import Source


@dataclass
class Target:
    """How a slow copy follows its module: by a share `tau` at every update, or by a whole copy every `period`."""

    tau: float = 0.005
    period: int = 0  # gradient steps between whole copies; 0 = follow by tau
    every: int = 1  # gradient steps between updates by tau, counted as those of a loss are

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1 or self.period < 0 or self.every < 1:
            raise Refused(f"target {self}: tau in (0, 1], period >= 0 and every >= 1 are expected")

    def is_due(self, before: int, trained: int) -> bool:
        """Does it follow in this gradient step?

        `before` are the steps before it, in its phase if there are phases; `trained` those that trained its module so
        far, this one too.
        """
        return trained % self.period == 0 if self.period else before % self.every == 0


@dataclass
class Phase:
    """A part of a round: some of the losses, for so many gradient steps or passes over what they read.

    A round begins with one collection of every source that collects (a rollout, say); its phases learn from that, each
    with rewards and advantages estimated afresh. Slow copies follow in phases that train their modules alone.
    """

    revision: ClassVar[int] = 2  # slow copies rest in the other phases

    losses: list[str] = field(default_factory=list)
    steps: int = 0
    epochs: int = 0  # passes over what the first loss reads (in its first slot); a KL stop ends them early
    fresh: bool = False  # a replay gives only what this round collected, and owes nothing for these steps

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs > 0):
            raise Refused(f"phase of {self.losses}: either steps or epochs above 0 is expected")


@dataclass
class Algo:
    """Which losses, reading which sources, acting how."""

    agent: AgentSpec = MISSING  # type: ignore[assignment]
    losses: dict[str, Loss] = field(default_factory=dict)  # one row a loss
    sources: dict[str, Source] = field(default_factory=dict)  # where batches come from; a stage's dataset needs no row
    phases: dict[str, Phase] = field(default_factory=dict)  # a round, in this order; all losses at once when empty
    lr: Any = 3e-4  # a number, or {start, end, steps, shape, warmup}
    steps: int = field(default=10_000, metadata={"key": False})  # gradient steps; the default of a stage's own steps
    batch: int = 64  # rows that each source gives to a gradient step
    sequence: int = 1  # rows in a row, for agents with memory: a batch has batch // sequence such sequences
    gamma: float = 0.99  # discount of an environment step
    optim: dict[str, Optim] = field(default_factory=dict)  # by group, where it differs
    targets: dict[str, Target] = field(default_factory=dict)  # by module
    normalize_obs: bool = False  # vector observations by mean and standard deviation of the data

    def __post_init__(self) -> None:
        schedule(self.lr, "lr")
        if not 0 <= self.gamma <= 1:
            raise Refused(f"gamma is {self.gamma}; a discount in [0, 1] is expected")
        if self.batch < 1:
            raise Refused(f"batch is {self.batch}; 1 or more rows are expected")
        if not 1 <= self.sequence <= self.batch:
            raise Refused(f"batch is {self.batch} and sequence {self.sequence}; 1 <= sequence <= batch is expected")


class Learner:
    """One agent, or `members` of them at once, and what it takes to improve it.

    With members, every parameter and buffer has a leading axis [members] and a step runs under `torch.vmap`; batches
    then have that axis too. One member runs the same code without vmap.

    With `record`, steps are recorded and repeated if all losses and modules declare themselves `recordable`.
    """

    def __init__(
        self, agents: Sequence[Agent], algo: Algo, seed: int, device: torch.device, record: bool = True
    ) -> None:
        self.agents, self.agent, self.algo, self.device = agents, agents[0], algo, device
        for agent in agents:
            agent.eval()
        self.members = len(agents)
        self.step_count = 0
        self.noise = self.new_noise(derive(seed, "learner"))
        if self.members > 1:
            parameters, self.buffers = stack_module_state(list(agents))
            for name, value in parameters.items():
                value.requires_grad_(not name.startswith("targets."))
            self._share_storage({**parameters, **self.buffers})
        else:
            parameters, self.buffers = dict(self.agent.named_parameters()), dict(self.agent.named_buffers())
        self.parameters: dict[str, Tensor] = parameters
        self.weights = {name: schedule(loss.weight, name) for name, loss in algo.losses.items()}
        self.groups = {name: self._of(f"nets.{name}.") for name in self.agent.nets}
        # A trunk follows as the first of the groups that share it does, unless it is told otherwise.
        like = {trunk: groups[0] for trunk, groups in self.agent.shared.items()}
        self.descents = {
            name: Descent(
                algo.optim.get(name) or algo.optim.get(like.get(name, name)) or Optim(), algo.lr, group, self.members
            )
            for name, group in self.groups.items()
            if group
        }
        self._tapes: dict[tuple[Any, ...], list[tuple[str, tuple[int, ...]]]] = {}
        # Weights that change: what a recorded step reads them from.
        self._numbers = {
            name: torch.zeros((), device=device) for name, weight in self.weights.items() if not weight.constant
        }
        self._improve = self._recorded() if record and self._is_recordable() else self._improved

    def _modules(self) -> list[nn.Module]:
        """All modules that a step may call."""
        return [module for agent in (self.agent, *self.agent.frozen.values()) for module in agent.modules()]

    def _is_recordable(self) -> bool:
        return all(map(declares, self.algo.losses.values())) and not undeclared(self._modules())

    def _recorded(self) -> Captured:
        own = [module for module in self._modules() if declares(module)]
        return Captured(self._improved, list(self.algo.losses.values()), own, self._tell_of_difference)

    def _tell_of_difference(self, args: Any, replayed: Any, answer: Any) -> None:
        """Say which losses gave another result than their recording."""
        names = args[1]
        wrong = {
            key.partition("/")[0] for key, value in answer[0].items() if replayed and not alike(replayed[0][key], value)
        }
        losses = ", ".join(
            f"{name} ({type(self.algo.losses[name]).__name__})" for name in names if not wrong or name in wrong
        )
        tell(
            f"warning: losses {losses}: at gradient step {self.step_count} the recorded step and the loss itself "
            "differ; the loss is run from now on, but earlier steps may have repeated what it no longer does. Take "
            "`recordable` off its class or its network's, or set hardware.record=false"
        )

    def _share_storage(self, stacked: Mapping[str, Tensor]) -> None:
        """Make every agent a view of its member, so that it can act and be scored while all are trained at once."""
        for index, agent in enumerate(self.agents):
            for name, value in [*agent.named_parameters(), *agent.named_buffers()]:
                value.data = stacked[name].detach()[index]

    def new_noise(self, seed: int) -> Generated:
        """A stream of draws for this learner's losses."""
        return Generated(seed, self.device, self.members if self.members > 1 else 0)

    def _of(self, prefix: str) -> list[Tensor]:
        return [value for name, value in self.parameters.items() if name.startswith(prefix)]

    def trains(self, names: Sequence[str], module: str) -> bool:
        """Has one of these losses a term for the module, or for a group that shares it?"""
        groups = {module, *self.agent.shared.get(module, ())}
        return any(groups & set(self.algo.losses[name].trains) for name in names)

    def step(
        self, batches: Mapping[str, Batch], names: Sequence[str], following: Sequence[str] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One gradient step of these losses, each on the batches of the sources it reads.

        All losses see the same parameters; then every group steps and the slow copies follow: those of `following`, or
        as they are due in a training without phases. Returns metrics (scalars, [members] with members) and feedback by
        source, "<source>/<name>"; both detached.
        """
        for name, number in self._numbers.items():
            number.fill_(self.weights[name](self.step_count))
        for descent in self.descents.values():
            descent.begin_step(self.step_count)
        self.step_count += 1
        if following is None:
            before, targets = self.step_count - 1, self.algo.targets
            following = [name for name, target in targets.items() if target.is_due(before, self.step_count)]
        columns = {source: batch.__dict__ for source, batch in batches.items()}
        metrics, feedback = self._improve(columns, names, following)
        return metrics, feedback

    def _improved(self, columns: Mapping[str, Any], names: Sequence[str], following: Sequence[str]) -> Any:
        """What a step does, but for the schedules."""
        batches = {source: Batch(**given) for source, given in columns.items()}
        outs = self.evaluate(names, batches, self.noise, training=True)
        terms: dict[str, Tensor] = {}
        for name, out in outs.items():
            for group, term in out.terms.items():
                weighted = self._weighted(name, term)
                terms[group] = terms[group] + weighted if group in terms else weighted
        self._descend(terms)
        self._follow(following)
        metrics = {metric_name(name, key): value for name, out in outs.items() for key, value in out.metrics.items()}
        feedback: dict[str, Tensor] = {}
        for name, out in outs.items():
            for slot, (source, _) in self.algo.losses[name].slots.items():
                own = f"{slot}/" if slot else ""
                said = {key[len(own) :]: value for key, value in out.feedback.items() if key.startswith(own)}
                feedback |= {f"{source}/{key}": value for key, value in said.items()}
        return metrics, feedback

    def _weighted(self, name: str, term: Tensor) -> Tensor:
        """A loss's term by its weight, summed over members."""
        summed = term.sum() if self.members > 1 else term
        weight = self._numbers.get(name, self.weights[name].start)
        return summed if not isinstance(weight, Tensor) and weight == 1 else weight * summed

    def evaluate(
        self, names: Sequence[str], batches: Mapping[str, Batch], noise: Noise, training: bool = False
    ) -> dict[str, Out]:
        """The losses' answers at the present parameters; with members every answer has a leading axis."""
        if self.members == 1:
            return self._alone(self.agent, names, batches, noise, training)

        def member(parameters: Any, buffers: Any, given: Any, draws: list[Tensor]) -> Any:
            outs = functional_call(
                self.agent, (parameters, buffers), (self._alone, names, given, Taped(draws), training), strict=True
            )
            return {name: (out.terms, out.metrics, out.feedback) for name, out in outs.items()}

        draws = [noise.draw(kind, shape) for kind, shape in self._asked(names, batches)]
        answers = torch.vmap(member)(self.parameters, self.buffers, dict(batches), draws)
        return {name: Out(*answer) for name, answer in answers.items()}

    def _alone(
        self, agent: Agent, names: Sequence[str], batches: Mapping[str, Batch], noise: Noise, training: bool
    ) -> dict[str, Out]:
        agent.begin_step(noise, training)
        prepared = {source: agent.unroll(agent.prepare(batch)) for source, batch in batches.items()}
        outs = {}
        for name in names:
            loss = self.algo.losses[name]
            slots = {slot: prepared[source] for slot, (source, _) in loss.slots.items()}
            outs[name] = _answered(f"losses.{name} ({type(loss).__name__})", loss, loss(agent, slots.get("", slots)))
        agent.end_step()
        return outs

    def _asked(self, names: Sequence[str], batches: Mapping[str, Batch]) -> list[tuple[str, tuple[int, ...]]]:
        """What the losses draw in a step, found by running them once for one member on zeros."""
        # Shapes too: validation batches have other sizes than those of the training.
        key = (*names, *(leaf.shape for batch in batches.values() for leaf in tree_leaves(batch)))
        if key not in self._tapes:
            sketch = Sketched(self.device)
            one = {name: batch.map(lambda column: column[0]) for name, batch in batches.items()}
            with torch.no_grad():
                self._alone(self.agent, names, one, sketch, training=False)
            self._tapes[key] = sketch.asked
        return self._tapes[key]

    def _descend(self, terms: dict[str, Tensor]) -> None:
        for trunk, groups in self.agent.shared.items():
            parts = [terms[group] for group in (*groups, trunk) if group in terms]
            if parts:
                terms[trunk] = torch.stack(parts).sum()
        pending = [group for group in terms if group in self.descents]
        for group in pending:
            if not terms[group].requires_grad:
                raise Refused(f"the terms of the losses for {group!r} have no gradient; do not detach what they train")
        gradients = {}
        for position, group in enumerate(pending):
            more = position < len(pending) - 1
            found = torch.autograd.grad(terms[group], self.groups[group], retain_graph=more, allow_unused=True)
            gradients[group] = found
        for group, found in gradients.items():
            self.descents[group].step(found)

    @torch.no_grad()
    def _follow(self, names: Sequence[str]) -> None:
        for name in names:
            slow, fast, target = self._of(f"targets.{name}."), self.groups[name], self.algo.targets[name]
            if target.period:
                torch._foreach_copy_(slow, fast)
            else:
                torch._foreach_lerp_(slow, fast, target.tau)

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed learner needs, as tensors by name."""
        saved = {f"agent/{name}": value.detach() for name, value in {**self.parameters, **self.buffers}.items()}
        for group, descent in self.descents.items():
            saved |= {f"optim/{group}/{name}": value for name, value in descent.state()}
        return saved | {"noise": self.noise.state(), "step": torch.tensor(self.step_count)}

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up a state; raises KeyError when it is of another agent."""
        for name, value in {**self.parameters, **self.buffers}.items():
            value.copy_(saved[f"agent/{name}"])
        for group, descent in self.descents.items():
            prefix = f"optim/{group}/"
            descent.restore({name[len(prefix) :]: value for name, value in saved.items() if name.startswith(prefix)})
        self.noise.restore(saved["noise"])
        self.step_count = int(saved["step"])


def _answered(what: str, loss: Loss, out: Any) -> Out:
    """What a loss answers, if it is in the form that a step needs. Raises Refused."""
    if not isinstance(out, Out):
        raise Refused(f"{what} answers {type(out).__name__}; an Out of terms and metrics is expected")
    for group, term in out.terms.items():
        if group not in loss.trains:
            raise Refused(f"{what} has a term for {group!r}, its `trains` has {', '.join(loss.trains)}; add it there")
        if not isinstance(term, Tensor) or term.dim():
            given = f"a tensor {list(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise Refused(f"{what}: its term for {group!r} is {given}; a scalar tensor is expected, as its mean is")
    for name, value in out.metrics.items():
        if not isinstance(value, Tensor) or value.dim():
            raise Refused(f"{what}: its metric {name!r} is no scalar tensor; detach() one")
    return out


def metric_name(row: str, key: str) -> str:
    """A row's "loss" goes by the name of the row, its details behind that."""
    return row if key == "loss" else f"{row}/{key}"
