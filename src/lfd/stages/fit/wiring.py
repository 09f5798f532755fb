"""Checks that losses, sources, agent, spaces and inputs of a training stage match."""

from collections.abc import Mapping
from functools import partial
from typing import final

from lfd.agents import REWARD, Agent
from lfd.agents.config import build_on_meta, check_role
from lfd.agents.nets import NetSpec
from lfd.agents.reward_model import RecurrentReward
from lfd.algos import Loss
from lfd.errors import UserError, external_errors, suggest
from lfd.registry import to_json
from lfd.sources import Source
from lfd.stages import CheckContext
from lfd.stages.fit.agents import check_frozen
from lfd.stages.fit.config import FitConfig
from lfd.stages.fit.feasibility import check_feasible
from lfd.stages.policies import split_name


@final
class Wiring:
    """Checks a training stage against the stages that it reads, the spaces and the environment."""

    def __init__(self, fit: FitConfig, context: CheckContext) -> None:
        self._fit, self._algo, self._frozen, self._context = fit, fit.algo, fit.frozen, context

    def check(self) -> None:
        """Raises UserError if something does not match."""
        name, spaces, datasets = self._context.name, self._context.spaces, self._context.datasets()
        algo = self._algo
        if self._context.env is None and self._fit.uses_evaluations:
            raise UserError(
                f"{name}: stop rules on scores and snapshots need episodes; choose an env, or leave them out"
            )
        if not algo.losses:
            raise UserError(f"{name}: the algorithm has no losses for {spaces.actions} actions; choose another algo=")
        if self._fit.uses_evaluations and not algo.agent.acts:
            raise UserError(
                f"{name}: stop rules on scores and snapshots need an agent that acts, got nets "
                f"{', '.join(algo.agent.nets) or 'none'}; leave them out"
            )
        self._check_sources(name)
        self._check_brought(name)
        try:
            with external_errors(f"{name}: building the agent", "see algo.agent"):
                agent = build_on_meta(lambda: algo.agent_config(spaces).build(spaces))
            to_json(algo.agent_config(spaces))  # refuses parts that no stored agent can name
        except UserError as refusal:
            message = str(refusal)
            raise UserError(message if message.startswith(f"{name}: ") else f"{name}: {message}") from refusal
        for row, loss in algo.losses.items():
            self._check_nets(f"{name}: losses.{row}", loss, agent)
            self._check_slots(f"{name}: losses.{row}", loss, datasets)
        self._check_trained(name)
        self._check_trunk(name, agent)
        self._check_names(name, agent)
        self._check_memory(name, agent)
        self._check_reward(name, agent)
        learned_reward = REWARD in agent.nets or REWARD in self._frozen
        for key, source in self._fit.read_sources().items():
            use = self._fit.use_of(key, name, self._context, learned_reward)
            use.check_batch_size()
            source.check(use)
        self._check_frozen(name)
        check_feasible(self._fit, self._context)

    def _check_sources(self, name: str) -> None:
        sources = self._fit.sources()
        direct = [source for loss in self._algo.losses.values() for source, _ in loss.slots.values()]
        opened = list(dict.fromkeys(direct))
        for key in dict.fromkeys(direct):
            parts = _parts(sources, key)
            if key in parts:
                raise UserError(f"{name}: sources.{key} mixes itself; name other sources in its fractions")
            opened += parts
        for key in set(opened):
            # Each of the two would step environments of its own.
            if opened.count(key) > 1 and sources[key].interacts:
                raise UserError(f"{name}: {key!r} is read twice; read it directly, or through one mix")
        for key, source in self._fit.read_sources().items():
            if source.draws_actions:
                self._fit.check_stochastic(f"{name}: algo.sources.{key}.stochastic=true", self._context.spaces)
        with_statistics = [
            key for key, source in self._fit.read_sources().items() if source.updates_normalizer or source.products(key)
        ]
        if self._algo.normalize_obs and not with_statistics:
            raise UserError(
                f"{name}: algo.normalize_obs needs a dataset or a rollout for its statistics; set it to false"
            )

    def _check_brought(self, name: str) -> None:
        """Checks that losses that bring a net under one name bring the same."""
        brought: dict[str, tuple[str, NetSpec]] = {}
        for row, loss in self._algo.losses.items():
            for net, spec in loss.brings(self._context.spaces).items():
                other, same = brought.setdefault(net, (row, spec))
                if same != spec:
                    raise UserError(
                        f"{name}: losses.{other} and losses.{row} bring different nets {net!r}; give both losses the "
                        f"same values, or set algo.agent.nets.{net}"
                    )

    def _check_nets(self, what: str, loss: Loss, agent: Agent) -> None:
        """Checks that the agent has the nets that a loss reads, and the algorithm their target networks."""
        for net, role in loss.roles().items():
            check_role(what, loss, net, role, dict(agent.nets))
        for target in loss.targets:
            if target not in self._algo.targets:
                raise UserError(
                    f"{what} reads a target network of {target!r}; add targets: {{{target}: {{tau: 0.005}}}}"
                )

    def _check_trained(self, name: str) -> None:
        """Checks that a loss trains each net, of this stage or of one that it starts from or that starts from it."""
        stages = [stage for stage in self._context.stages.values() if isinstance(stage, FitConfig)]
        linked = [stage for key, stage in self._context.stages.items() if key == self._fit.init_from]
        fits = [self._fit, *(s for s in stages if s.init_from == name or s in linked)]
        trained = {group for fit in fits for loss in fit.algo.losses.values() for group in loss.trains}
        for net in self._algo.agent.nets:
            if net not in trained:
                raise UserError(
                    f"{name}: no loss trains the net {net!r} of algo.agent; add a loss, or remove the net with "
                    f"~algo.agent.nets.{net}"
                )

    def _check_trunk(self, name: str, agent: Agent) -> None:
        """Checks that target networks of nets that share a trunk are updated alike, and the trunk's with them."""
        for part in agent.trunk:
            if part in self._algo.targets:
                raise UserError(
                    f"{name}: targets.{part}: expected none, as it has a target network wherever a net that reads it "
                    f"has one, got a value; remove it with ~algo.targets.{part}"
                )
        targets = {net: target for net, target in self._algo.targets.items() if net in agent.on_trunk}
        for net, target in targets.items():
            first = next(iter(targets))
            if target != targets[first]:
                raise UserError(
                    f"{name}: targets.{net}: expected the values of targets.{first}, as both nets share the encoder "
                    "and its target network, got others; set equal values, or algo.agent.trunk=separate"
                )

    def _check_names(self, name: str, agent: Agent) -> None:
        """Checks names of modules in `targets` and `optim`, and of losses in `phases`."""
        for key, table in (("targets", self._algo.targets), ("optim", self._algo.optim)):
            for module in table:
                if module not in agent.nets:
                    near = suggest(module, agent.nets)
                    raise UserError(f"{name}: {key}.{module} names no net; {near}")
        for phase, content in self._algo.phases.items():
            if not content.losses:
                raise UserError(f"{name}: phases.{phase} has no losses; {suggest('', self._algo.losses)}")
            for row in content.losses:
                if row not in self._algo.losses:
                    raise UserError(f"{name}: phases.{phase} names the loss {row!r}; {suggest(row, self._algo.losses)}")
        phased = {row for content in self._algo.phases.values() for row in content.losses}
        for row in self._algo.losses:
            if phased and row not in phased:
                raise UserError(f"{name}: losses.{row} is in no phase and would never run; add it to one of phases")

    def _check_memory(self, name: str, agent: Agent) -> None:
        length = self._algo.sequence_length
        if self._algo.agent.memory is not None and not agent.recurrent:
            raise UserError(
                f"{name}: algo.agent.memory: expected null, as none of the nets {', '.join(agent.nets)} reads the "
                f"encoder, got {type(self._algo.agent.memory).__name__}; leave it out"
            )
        if agent.recurrent and length == 1:
            raise UserError(
                f"{name}: algo.sequence_length: expected more than 1 for an agent with a memory, got 1; set it to 16"
            )
        if length > 1 and not agent.recurrent:
            raise UserError(
                f"{name}: algo.sequence_length: expected 1 for an agent without memory, got {length}; set it to "
                "1, or add +memory@algo.agent.memory=gru"
            )

    def _check_reward(self, name: str, agent: Agent) -> None:
        if REWARD in agent.nets and REWARD in self._frozen:
            raise UserError(
                f"{name}: a loss trains a reward model and frozen.reward names another; leave one of them out"
            )
        if self._algo.agent.acts and REWARD in agent.nets and isinstance(agent.nets[REWARD], RecurrentReward):
            raise UserError(
                f"{name}: a recurrent reward model has to be trained before the policy; train it in a stage of its own "
                "(agent reward_model) and set frozen.reward to that stage"
            )
        if REWARD not in agent.nets and REWARD not in self._frozen:
            return
        self._check_reward_columns(name)
        for row, loss in self._algo.losses.items():
            for source_name, columns in loss.slots.values():
                if REWARD in loss.trains and "next_obs" in columns:
                    self.check_single_steps(f"{name}: losses.{row}", source_name)

    def _check_reward_columns(self, name: str) -> None:
        """Checks that losses use the reward model and no column that only the environment's rewards give."""
        needed = {
            column for loss in self._algo.losses.values() for _, columns in loss.slots.values() for column in columns
        }
        if REWARD in self._frozen and not needed & {"reward", "advantage", "value_target"}:
            raise UserError(
                f"{name}: frozen.reward={self._frozen[REWARD]} needs a loss that reads rewards, got none; choose an "
                "algorithm that has one, as in rl_algo=ppo"
            )
        if "return_to_go" in needed:
            raise UserError(
                f"{name}: a loss reads return_to_go, which is computed from the dataset's rewards and not from the "
                "reward model; add a relabel stage, or leave the loss out (CQL: calibrated=false)"
            )

    def _check_frozen(self, name: str) -> None:
        """Checks snapshots, numbers of agents and memories of the products in `frozen`."""
        for role, product in self._frozen.items():
            base, snapshot = split_name(product)
            what, stage = f"{name}: frozen.{role}={product}", self._context.stages[base]
            if snapshot is not None:
                stage.check_snapshot(what, snapshot)
            if (members := stage.policy_count()) > 1:
                raise UserError(f"{what}: expected a single agent, got {members} members; set members=1 there")
            earlier = build_on_meta(partial(stage.untrained_agent, self._context.spaces))
            if earlier is not None:
                check_frozen(what, role, earlier)

    def check_single_steps(self, what: str, name: str) -> None:
        """Raises UserError if transitions of the source `name` span several environment steps."""
        sources = self._fit.sources()
        for key in (name, *sources[name].parts()):
            if (steps := sources[key].transition_steps) > 1:
                raise UserError(f"{what} needs transitions of one step, {key} has {steps}; set its n_step to 1")

    def _check_slots(self, what: str, loss: Loss, datasets: list[str]) -> None:
        """Checks that the sources that a loss reads have datasets and the columns that it needs."""
        sources = self._fit.sources()
        for name, columns in loss.slots.values():
            for key in (name, *sources[name].parts()):
                for product in sources[key].products(key):
                    if product not in datasets:
                        hint = suggest(product, sorted({*datasets, *self._algo.sources}))
                        raise UserError(
                            f"{what} reads {product!r}, which is no stage with a dataset and no source; {hint}"
                        )
            missing = sorted(set(columns) - sources[name].provides(sources))
            if missing:
                raise UserError(
                    f"{what} ({type(loss).__name__}) needs the columns {', '.join(missing)}, which {name!r} "
                    f"({type(sources[name]).__name__}) does not have; {_source_with(missing)}"
                )


def _parts(sources: Mapping[str, Source], name: str) -> list[str]:
    """Names of the sources that a source mixes, also through other mixes."""
    parts: list[str] = []
    pending = list(sources[name].parts())
    while pending:
        part = pending.pop()
        if part not in parts:
            parts.append(part)
            pending += sources[part].parts()
    return parts


def _source_with(columns: list[str]) -> str:
    """A hint at a source that has the columns."""
    on_policy = {"log_prob", "value", "advantage", "value_target"}
    if set(columns) & {"preferred", "valid"}:
        return "read a preference_pairs source"
    if columns == ["expert_action"]:
        return "read a rollout source and set its expert"
    return "read a rollout source" if set(columns) <= on_policy else "read a dataset source"
