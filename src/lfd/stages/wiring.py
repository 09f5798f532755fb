"""Whether what a fit is told fits together."""

from collections.abc import Mapping
from typing import final

from lfd.agents import REWARD, Agent, sketched
from lfd.agents.judge import RecurrentReward
from lfd.algos import Loss
from lfd.envs import Spaces
from lfd.errors import Refused, foreign_code, nearest
from lfd.sources import Source
from lfd.sources.dataset import Demonstrations
from lfd.sources.interactive import Interactive
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages.recipe import Recipe


@final
class Wiring:
    """The losses, sources and agent of a recipe, in spaces and beside datasets that it knows nothing of."""

    def __init__(self, fit: Recipe) -> None:
        self._fit, self._algo, self._frozen = fit, fit.algo, fit.frozen

    def check(self, name: str, spaces: Spaces, datasets: list[str]) -> None:
        """Raise Refused where losses, sources, agent and spaces do not fit together."""
        algo, kind = self._algo, type(self._algo.agent).__name__
        if not algo.losses:
            raise Refused(f"{name}: the algorithm has no losses for {spaces.actions} actions; choose another algo=")
        if spaces.actions not in algo.agent.actions:
            acts = ", ".join(algo.agent.actions)
            raise Refused(
                f"{name}: {kind} acts in {acts} action spaces, the environment's is {spaces.actions}; choose another "
                "algo, or another env"
            )
        if self._fit.reads_checks and not algo.agent.acts:
            raise Refused(f"{name}: {kind} does not act: stop rules on scores and checkpoints have nothing to look at")
        self._check_sources(name, spaces)
        with foreign_code(f"{name}: building {kind}", "see algo.agent"):
            agent = sketched(lambda: algo.agent.build(spaces))
        for row, loss in algo.losses.items():
            self._check_modules(f"{name}: losses.{row}", loss, agent)
            self._check_columns(name, row, loss, datasets)
        self._check_names(name, agent)
        self._check_memory(name, agent)
        self._check_reward(name, agent)

    def _check_sources(self, name: str, spaces: Spaces) -> None:
        table = self._fit.sources()
        direct = [source for loss in self._algo.losses.values() for source, _ in loss.slots.values()]
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
        for source, one in self._fit.read().items():
            if isinstance(one, Interactive) and one.sample:
                self._fit.check_sampled(f"{name}: algo.sources.{source}.sample=true", spaces)
        fed = [
            key for key, one in self._fit.read().items() if isinstance(one, Rollout | Interactive) or one.products(key)
        ]
        if self._algo.normalize_obs and not fed:
            raise Refused(
                f"{name}: normalize_obs needs a dataset or a rollout, from which statistics come; set it to false"
            )

    def _check_modules(self, what: str, loss: Loss, agent: Agent) -> None:
        if not isinstance(agent, loss.agents):
            wanted = f"{loss.calls}, which a {loss.agents.__name__} has" if loss.calls else f"a {loss.agents.__name__}"
            raise Refused(f"{what} ({type(loss).__name__}) needs {wanted}, algo.agent builds a {type(agent).__name__}")
        if loss.rows not in (None, self._algo.batch):
            raise Refused(
                f"{what} reads {loss.rows} rows at once, algo.batch is {self._algo.batch}; set it to {loss.rows}"
            )
        for target in loss.targets:
            if target not in self._algo.targets:
                raise Refused(f"{what} reads a slow copy of {target!r}; add targets: {{{target}: {{tau: 0.005}}}}")
        agent.add(loss.modules(agent))

    def _check_names(self, name: str, agent: Agent) -> None:
        """Names of modules in `targets` and `optim`, and of losses in `phases`."""
        for key, table in (("targets", self._algo.targets), ("optim", self._algo.optim)):
            for module in table:
                if module not in agent.nets:
                    near = nearest(module, agent.nets)
                    raise Refused(f"{name}: {key}.{module} names no module of {type(agent).__name__}; {near}")
        for phase, content in self._algo.phases.items():
            if not content.losses:
                raise Refused(f"{name}: phases.{phase} has no losses; {nearest('', self._algo.losses)}")
            for row in content.losses:
                if row not in self._algo.losses:
                    raise Refused(f"{name}: phases.{phase} names the loss {row!r}; {nearest(row, self._algo.losses)}")
        phased = {row for content in self._algo.phases.values() for row in content.losses}
        for row in self._algo.losses:
            if phased and row not in phased:
                raise Refused(f"{name}: losses.{row} is in no phase and would never run; add it to one of phases")

    def _check_memory(self, name: str, agent: Agent) -> None:
        length, kind = self._algo.sequence, type(agent).__name__
        if agent.recurrent and length == 1:
            raise Refused(f"{name}: {kind} has a memory and learns from sequences; set algo.sequence, 16 for example")
        if length > 1 and not agent.recurrent:
            raise Refused(f"{name}: algo.sequence={length} is for agents with memory, {kind} has none; set it to 1")
        if self._algo.batch % length:
            raise Refused(f"{name}: algo.batch={self._algo.batch} is not a multiple of algo.sequence={length}")
        for row, source in self._fit.read().items():
            if isinstance(source, Rollout) and source.num_envs * source.steps < self._algo.batch:
                held = source.num_envs * source.steps
                raise Refused(
                    f"{name}: algo.batch={self._algo.batch} is more than the {held} rows of a collection of {row}"
                )
            if isinstance(source, Rollout) and source.steps % length:
                raise Refused(f"{name}: steps={source.steps} of {row} is not a multiple of algo.sequence={length}")
            if isinstance(source, Replay) and length > 1 and source.priority:
                raise Refused(
                    f"{name}: {row} draws single transitions by priority; set its priority to 0 for sequences"
                )
            if isinstance(source, Rollout) and self._fit.members > 1 and source.kl_stop is not None:
                raise Refused(f"{name}: members go on together and kl_stop of {row} would part them; set it to null")

    def _check_reward(self, name: str, agent: Agent) -> None:
        if REWARD in agent.nets and REWARD in self._frozen:
            raise Refused(f"{name}: a loss trains a reward and frozen.reward gives another; leave one of them out")
        if self._algo.agent.acts and REWARD in agent.nets and isinstance(agent.nets[REWARD], RecurrentReward):
            raise Refused(
                f"{name}: this reward pays each step once, when it is taken, and has to be learnt before; "
                "train it in a stage of its own (algo.agent: judge) and set frozen.reward to that"
            )
        if REWARD not in agent.nets and REWARD not in self._frozen:
            return
        self._check_rewarded(name)
        for row, loss in self._algo.losses.items():
            for source_name, columns in loss.slots.values():
                if REWARD in loss.trains and "next_obs" in columns:
                    self.check_single_steps(f"{name}: losses.{row}", source_name)

    def _check_rewarded(self, name: str) -> None:
        """What reads rewards, where a learnt one takes their place."""
        read = {
            column for loss in self._algo.losses.values() for _, columns in loss.slots.values() for column in columns
        }
        if REWARD in self._frozen and not read & {"reward", "advantage", "value_target"}:
            raise Refused(
                f"{name}: frozen.reward={self._frozen[REWARD]} and no loss of the algorithm reads a reward; choose one "
                "that does, as in algo@learner=ppo"
            )
        if "return_to_go" in read:
            raise Refused(
                f"{name}: return_to_go is of the data's own rewards and another reward takes their place; relabel the "
                "data with that first, or leave out what reads it (calibrated of CQL)"
            )
        for row, source in self._fit.read().items():
            if isinstance(source, Demonstrations | Replay) and source.reward is not None:
                raise Refused(f"{name}: {row} takes a learnt reward and has a constant one; set its reward to null")
            if isinstance(source, Demonstrations) and source.return_range is not None:
                raise Refused(f"{name}: {row} takes a learnt reward, which is not scaled; set its return_range to null")

    def check_single_steps(self, what: str, name: str) -> None:
        """Raise Refused where a source gives several steps at once."""
        table = self._fit.sources()
        for each in (name, *table[name].parts()):
            source = table[each]
            if isinstance(source, Demonstrations | Replay) and source.n_step > 1:
                raise Refused(
                    f"{what} judges single steps and {each} gives {source.n_step} at once; set its n_step to 1"
                )

    def _check_columns(self, name: str, row: str, loss: Loss, datasets: list[str]) -> None:
        table = self._fit.sources()
        for source_name, needs in loss.slots.values():
            names = [source_name, *table[source_name].parts()]
            for each in names:
                for product in table[each].products(each):
                    if product not in datasets:
                        known = sorted({*datasets, *self._algo.sources})
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
