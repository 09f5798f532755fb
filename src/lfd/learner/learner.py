"""The gradient step: losses, gradients by parameter group, optimizers, target networks, members."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state
from torch.utils._pytree import tree_leaves, tree_map

from lfd.agents import Agent
from lfd.agents.config import AgentConfig
from lfd.algos import Loss, LossOutput, check_output
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.learner.optim import OptimConfig, Optimizer, Target, step_groups
from lfd.learner.purity import alike, is_recordable, unrecordable_modules
from lfd.learner.recording import RecordedStep
from lfd.log.progress import print_message
from lfd.rng import GeneratorRng, ReplayedRng, Rng, ShapeRecorder, derive
from lfd.schedule import parse_schedule
from lfd.sources import Source


@dataclass
class Phase:
    """A part of a round: some of the losses, for a number of gradient steps or of passes over their data.

    A round begins with one collection of every source that collects, such as a rollout; its phases learn from that
    data, each with new estimates of rewards and advantages. A target network is updated only in phases that train its
    module.
    """

    revision: ClassVar[int] = 2  # target networks are not updated in the other phases

    losses: list[str] = field(default_factory=list)  # names of losses
    steps: int = 0  # gradient steps; 0 = as `epochs` says
    epochs: int = 0  # passes over the data of the first loss (in its first slot), fewer if `target_kl` is exceeded
    on_policy_only: bool = False  # a replay draws only transitions of this round, and collects none for these steps

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs > 0):
            raise UserError(
                f"steps: expected either steps or epochs above 0 in a phase, got steps={self.steps} and "
                f"epochs={self.epochs}; set one of them to 0"
            )


@dataclass
class Algo:
    """An algorithm: its agent, losses, sources and optimizers."""

    agent: AgentConfig = field(default_factory=AgentConfig)
    losses: dict[str, Loss] = field(default_factory=dict)  # row -> loss
    sources: dict[str, Source] = field(default_factory=dict)  # row -> source; the dataset of a stage needs no row
    phases: dict[str, Phase] = field(default_factory=dict)  # phases of a round, in order; empty = all losses at once
    lr: Any = 3e-4  # learning rate: a number, or {start, end, over, shape, warmup}
    steps: int = field(default=10_000, metadata={"key": False})  # gradient steps, unless the stage sets its own
    batch_size: int = 64  # rows that each source provides in a gradient step
    sequence_length: int = 1  # rows of a sequence, for recurrent agents; a batch has batch_size // sequence_length
    gamma: float = 0.99  # discount of an environment step
    optim: dict[str, OptimConfig] = field(default_factory=dict)  # parameter group -> its optimizer, if not the default
    targets: dict[str, Target] = field(default_factory=dict)  # module -> updates of its target network
    normalize_obs: bool = False  # normalize vector observations by their mean and standard deviation in the data

    def __post_init__(self) -> None:
        parse_schedule(self.lr, "lr")
        if not 0 <= self.gamma <= 1:
            raise UserError(f"gamma: expected a discount in [0, 1], got {self.gamma}")
        if self.batch_size < 1:
            raise UserError(f"batch_size: expected 1 or more, got {self.batch_size}")
        if not 1 <= self.sequence_length <= self.batch_size:
            raise UserError(
                f"sequence_length: expected 1 to batch_size={self.batch_size}, got {self.sequence_length}; lower it or "
                "raise batch_size"
            )

    def agent_config(self, spaces: Spaces) -> AgentConfig:
        """The configuration of the agent with the nets that the losses bring."""
        nets = {name: spec for loss in self.losses.values() for name, spec in loss.brings(spaces).items()}
        return self.agent.with_nets(nets)


_Outputs = tuple[dict[str, LossOutput[Any]], dict[str, Any]]


class Learner:
    """One agent, or several members, with the optimizers and the random numbers of their gradient steps.

    With several members every parameter, buffer and column of a batch has a leading axis [members], and a step runs
    under `torch.vmap`. One member runs the same code without vmap.

    With `record`, steps are recorded and replayed if all losses and modules declare themselves `recordable`.
    """

    def __init__(
        self, agents: Sequence[Agent], algo: Algo, seed: int, device: torch.device, record: bool = True
    ) -> None:
        self.agents, self.agent, self.algo, self.device = agents, agents[0], algo, device
        self.members, self.step_count = len(agents), 0
        for agent in agents:
            agent.eval()
        self.rng = self.new_rng(derive(seed, "learner"))
        if self.members > 1:
            parameters, self.buffers = stack_module_state(list(agents))
            for name, value in parameters.items():
                value.requires_grad_(not name.startswith("targets."))
            # parameters of an agent become views of its member's, so that it acts by the present weights
            stacked = {**parameters, **self.buffers}
            for index, agent in enumerate(agents):
                for name, value in [*agent.named_parameters(), *agent.named_buffers()]:
                    value.data = stacked[name].detach()[index]
        else:
            parameters, self.buffers = dict(self.agent.named_parameters()), dict(self.agent.named_buffers())
        self.parameters: dict[str, Tensor] = parameters
        self.weights = {name: parse_schedule(loss.weight, name) for name, loss in algo.losses.items()}
        self.groups = {name: self._parameters_of(f"nets.{name}.") for name in self.agent.nets}
        # the trunk has the optimizer of the first net on it, unless `optim` has its own
        first = {part: self.agent.on_trunk[0] for part in self.agent.trunk}
        self.optimizers: dict[str, Optimizer] = {}
        for name, group in self.groups.items():
            config = algo.optim.get(name) or algo.optim.get(first.get(name, name)) or OptimConfig()
            if group:
                self.optimizers[name] = Optimizer(config, algo.lr, group, self.members)
        self._rng_requests: dict[tuple[Any, ...], list[tuple[str, tuple[int, ...]]]] = {}
        # scheduled weights as tensors, from which a recorded step reads them
        self._weight_tensors = {
            name: torch.zeros((), device=device) for name, weight in self.weights.items() if not weight.is_constant
        }
        self._replay = (self._recorded() if record else None) or self._compute

    def _recorded(self) -> RecordedStep | None:
        """The recorded step; None unless all losses and all modules that they may call are recordable."""
        losses = list(self.algo.losses.values())
        modules = [module for agent in (self.agent, *self.agent.frozen.values()) for module in agent.modules()]
        if not all(map(is_recordable, losses)) or unrecordable_modules(modules):
            return None
        return RecordedStep(self._compute, losses, [*filter(is_recordable, modules)], self._warn_of_difference)

    def _warn_of_difference(self, args: Any, replayed: Any, result: Any) -> None:
        """Warns of the losses whose metrics differ from the replay's, or of all losses of the step."""
        names = args[1]
        changed = [key for key, value in result[0].items() if replayed and not alike(replayed[0][key], value)]
        wrong = {key.partition("/")[0] for key in changed} or names
        losses = ", ".join(f"{name} ({type(self.algo.losses[name]).__name__})" for name in names if name in wrong)
        print_message(
            f"warning: losses {losses}: at gradient step {self.step_count} the recorded step and the loss itself "
            "differ; the loss runs from now on, but earlier steps may have repeated outdated operations. Remove "
            "`recordable` from its class or its network's, or set hardware.record=false"
        )

    def new_rng(self, seed: int) -> GeneratorRng:
        """Returns a random stream for this learner's losses."""
        return GeneratorRng(seed, self.device, self.members if self.members > 1 else 0)

    def _parameters_of(self, prefix: str) -> list[Tensor]:
        return [value for name, value in self.parameters.items() if name.startswith(prefix)]

    def trains(self, names: Sequence[str], module: str) -> bool:
        """True if one of these losses has a term for the net, or for the nets that share this part of the trunk."""
        groups = {module, *(self.agent.on_trunk if module in self.agent.trunk else ())}
        return any(groups & set(self.algo.losses[name].trains) for name in names)

    def step(
        self, batches: Mapping[str, Batch], names: Sequence[str], targets: Sequence[str] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One gradient step of these losses, each on the batches [B, ...] of the sources it reads.

        All losses see the same parameters; then every group steps and the target networks are updated.

        Args:
            batches: batches by source.
            names: names of the losses.
            targets: names of the target networks to update; None for those that are due in a training without phases.

        Returns:
            Metrics by "<row>/<metric>", [] or [members], and feedback by "<source>/<name>"; both detached. The feedback
            "state" is the recurrent state after the source's sequences.
        """
        for name, number in self._weight_tensors.items():
            number.fill_(self.weights[name](self.step_count))
        for optimizer in self.optimizers.values():
            optimizer.begin_step(self.step_count)
        self.step_count += 1
        if targets is None:
            before, due = self.step_count - 1, self.algo.targets.items()
            targets = [name for name, target in due if target.is_due(before, self.step_count)]
        metrics, feedback = self._replay(batches, names, targets)
        return metrics, feedback

    def _compute(self, batches: Mapping[str, Batch], names: Sequence[str], targets: Sequence[str]) -> Any:
        """The tensor operations of a step, without its schedules; they may be recorded."""
        outputs, states = self._outputs(names, batches, self.rng, training=True)
        terms: dict[str, Tensor] = {}
        of_trunk: list[Tensor] = []
        for name, output in outputs.items():
            for group, term in output.by_group.items():
                weighted = self._weighted(name, term)
                terms[group] = terms[group] + weighted if group in terms else weighted
                if group in self.agent.on_trunk and group not in self.algo.losses[name].through_critic:
                    of_trunk.append(weighted)
        if of_trunk:
            terms |= dict.fromkeys(self.agent.trunk, torch.stack(of_trunk).sum())
        step_groups(self.optimizers, terms)
        self._update_targets(targets)
        metrics: dict[str, Tensor] = {}
        feedback: dict[str, Any] = {f"{source}/state": state for source, state in states.items()}
        for name, output in outputs.items():
            for buffer, value in output.updates.items():
                self.buffers[buffer].copy_(value.detach())
            metrics |= output.metrics.named(name)
            for slot, (source, _) in self.algo.losses[name].slots.items():
                prefix = f"{slot}/" if slot else ""
                for key, value in output.feedback.items():
                    if key.startswith(prefix):
                        feedback[f"{source}/{key.removeprefix(prefix)}"] = value
        return metrics, feedback

    def _weighted(self, name: str, term: Tensor) -> Tensor:
        """A loss's term [] or [members] times its weight, summed over members -> []."""
        summed = term.sum() if self.members > 1 else term
        weight = self._weight_tensors.get(name, self.weights[name].start)
        return summed if not isinstance(weight, Tensor) and weight == 1 else weight * summed

    def evaluate(
        self, names: Sequence[str], batches: Mapping[str, Batch], rng: Rng, training: bool = False
    ) -> dict[str, LossOutput[Any]]:
        """Returns the losses' outputs for the present parameters; tensors are [members, ...] with several members."""
        return self._outputs(names, batches, rng, training)[0]

    def _outputs(self, names: Sequence[str], batches: Mapping[str, Batch], rng: Rng, training: bool) -> _Outputs:
        """The losses' outputs, and the recurrent states after the sequences of each source, detached."""
        if self.members == 1:
            return self._losses(self.agent, names, batches, rng, training)

        def member(parameters: Any, buffers: Any, batches: Any, samples: list[Tensor]) -> Any:
            args = (self._losses, names, batches, ReplayedRng(samples), training)
            return functional_call(self.agent, (parameters, buffers), args, strict=True)

        samples = [rng.draw(kind, shape) for kind, shape in self._requests(names, batches)]
        outputs: _Outputs = torch.vmap(member)(self.parameters, self.buffers, dict(batches), samples)
        return outputs

    def _losses(
        self, agent: Agent, names: Sequence[str], batches: Mapping[str, Batch], rng: Rng, training: bool
    ) -> _Outputs:
        agent.begin_step(rng, training)
        preprocessed = {source: agent.unroll(agent.preprocess(batch)) for source, batch in batches.items()}
        outputs = {}
        for name in names:
            loss = self.algo.losses[name]
            slots = {slot: preprocessed[source] for slot, (source, _) in loss.slots.items()}
            output = loss(agent, slots.get("", slots))
            check_output(f"losses.{name} ({type(loss).__name__})", loss, output, self.buffers)
            outputs[name] = output
        agent.end_step()
        states = {name: batch.__dict__.get("state") for name, batch in preprocessed.items() if agent.recurrent}
        return outputs, {name: tree_map(Tensor.detach, state) for name, state in states.items() if state is not None}

    def _requests(self, names: Sequence[str], batches: Mapping[str, Batch]) -> list[tuple[str, tuple[int, ...]]]:
        """Kinds and shapes of the losses' random draws, recorded by running them once for the first member."""
        # shapes are in the key, as validation batches have other sizes
        key = (*names, *(leaf.shape for batch in batches.values() for leaf in tree_leaves(batch)))
        if key not in self._rng_requests:
            recorder = ShapeRecorder(self.device)
            first = {name: batch.map(lambda column: column[0]) for name, batch in batches.items()}
            with torch.no_grad():
                self._losses(self.agent, names, first, recorder, training=False)
            self._rng_requests[key] = recorder.requests
        return self._rng_requests[key]

    @torch.no_grad()
    def _update_targets(self, names: Sequence[str]) -> None:
        updates = {name: self.algo.targets[name] for name in names}
        on_trunk = [name for name in names if name in self.agent.on_trunk]
        if on_trunk:
            updates |= dict.fromkeys(self.agent.trunk, updates[on_trunk[0]])
        for name, target in updates.items():
            target.update(self._parameters_of(f"targets.{name}."), self.groups[name])

    def state(self) -> dict[str, Tensor]:
        """Returns the state of a learner that can be resumed, as tensors by name, those of members [members, ...]."""
        saved = {f"agent/{name}": value.detach() for name, value in {**self.parameters, **self.buffers}.items()}
        for group, optimizer in self.optimizers.items():
            saved |= {f"optim/{group}/{name}": value for name, value in optimizer.state()}
        return saved | {"rng": self.rng.state(), "step": torch.tensor(self.step_count)}

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Restores a state from `state`. Raises KeyError if it is another agent's."""
        for name, value in {**self.parameters, **self.buffers}.items():
            value.copy_(saved[f"agent/{name}"])
        for group, optimizer in self.optimizers.items():
            prefix = f"optim/{group}/"
            optimizer.restore({name[len(prefix) :]: value for name, value in saved.items() if name.startswith(prefix)})
        self.rng.restore(saved["rng"])
        self.step_count = int(saved["step"])
