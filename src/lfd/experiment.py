"""From a composed configuration to working objects: with cli.py the only room that knows Hydra."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import BooleanNode, DictConfig, ListConfig, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException
from omegaconf.nodes import IntegerNode

from lfd.envs import Env
from lfd.errors import DiskFull, Refused, foreign_code, foreign_error, nearest, system_error
from lfd.hardware import Hardware
from lfd.learner import Algo, Phase, Target
from lfd.log import Logger
from lfd.log.progress import tell
from lfd.optim import Optim
from lfd.provenance import without_secrets
from lfd.refusals import follow, parsed, place, placed, sentence
from lfd.registry import BROKEN, PARTS, parts
from lfd.stages import Stage
from lfd.values import check_kinds, check_numbers, hidden, references, refuse_strays, resolved_yaml

OPTIONS = "options"  # at the root of a run's config.yaml: what was chosen; nothing reads it
# What stands at the root beside the stages.
ROOT: dict[str, Any] = {
    "seed": IntegerNode(0),
    "env": Env,
    "algo": Algo,
    "expert_algo": Algo,
    "fqe_algo": Algo,
    "learner": Algo,
    "hardware": Hardware,
    "logger": Logger,
    "targets": ListConfig([], element_type=str),
    "outputs": StringNode("outputs"),
    "dry_run": BooleanNode(False),
    "film": BooleanNode(False),
}


@dataclass
class Experiment:
    """One experiment, its parts built and their ranges checked."""

    stages: dict[str, Stage]
    targets: list[str]
    env: Env | None
    hardware: Hardware
    logger: Logger
    seed: int
    outputs: Path
    dry_run: bool
    film: bool
    names: dict[str, str]  # what was chosen: {"algo": "cql", "env": "cartpole"}; of env=gym its id
    options: dict[str, str]  # what was chosen in all groups, by where it stands
    references: dict[str, set[str]]  # name at the root -> the others that it speaks of
    config: str  # the resolved configuration, as YAML
    overrides: list[str]


def register() -> None:
    """Put every class into Hydra's ConfigStore under its name."""
    store = ConfigStore.instance()
    store.store(name="experiment", node=ROOT)
    store.store(group="algo", name="schema", node=Algo)
    store.store(group="hardware", name="hardware_schema", node=Hardware)
    # One more row of a table: +optim@algo.optim.q=row
    for group, row in (("optim", Optim), ("target", Target), ("phase", Phase)):
        store.store(group=group, name="row", node=row)
    for group in PARTS:
        for name, kind in parts(group).items():
            try:
                OmegaConf.structured(kind)
            except OmegaConfBaseException as error:
                # The types of its fields, say; of ours they all are known.
                reason = str(error).partition("\n")[0]
                BROKEN[group, name] = Refused(f"lfd.{group}: {name}: no configuration can hold its fields: {reason}")
                continue
            store.store(group=group, name=name, node=kind)
    for refusal in BROKEN.values():
        tell(f"left out: {refusal}")


def build(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str]) -> Experiment:
    """The objects of a composed configuration. Raises Refused."""
    for override in parsed(overrides, sweep=False):
        _check_override(cfg, override, choices)
    secrets = check_kinds(cfg, ROOT)
    _check_learner(cfg, choices)
    try:
        content = _objects(cfg)
    except Refused as refusal:
        raise Refused(hidden(str(refusal), secrets)) from refusal
    names = {key: str(choices[key]) for key in ("algo", "env", "dataset", "pipeline") if key in choices}
    options = {one.rpartition("@")[2]: str(choices[one]) for one in sorted(choices) if _is_told(one)}
    env = content["env"]
    stages = {name: node for name, node in content.items() if isinstance(node, Stage)}
    if env is not None and any(override.key_or_group == "env.id" for override in parsed(overrides, sweep=False)):
        # `env=gym` says nothing; and the name is to be one of a folder
        names["env"] = re.sub(r"[^\w.-]+", "-", env.id)[:80]
    if env is None and content["film"]:
        raise Refused("film=true: with env=none there is nothing to film; leave it out, or choose an env")
    content["hardware"].open()
    outputs = _check_folder(content["outputs"])
    _check_actions(env, stages, choices, outputs / "artifacts")
    if env is not None and content["film"]:
        _check_film(env)
    return Experiment(
        stages=stages,
        targets=content["targets"],
        env=env,
        hardware=content["hardware"],
        logger=content["logger"],
        seed=content["seed"],
        outputs=outputs,
        dry_run=content["dry_run"],
        film=content["film"],
        names=names,
        config=without_secrets(resolved_yaml(cfg, options, secrets)),
        options=options,
        references=references(cfg),
        overrides=overrides,
    )


def _is_told(choice: str) -> bool:
    """Is it a group that people choose from, and not a file of hyperparameters or a class?"""
    group, _, package = choice.partition("@")
    chosen_by_others = ("impl", "tuned", "stage", "agent", "loss", "source", "optim", "target", "phase")
    return "/" not in group and group not in chosen_by_others and "." not in package and not package.startswith("_")


def _check_override(cfg: DictConfig, override: Override, choices: Mapping[str, Any]) -> None:
    """Refuse what Hydra takes and that changes nothing, or leaves nothing where something has to be."""
    key, line = override.key_or_group, override.input_line
    if override.is_delete():
        if key in ROOT:
            raise Refused(f"{line}: {key} has to be there; choose another value instead, or leave this out")
        return
    if key.partition(".")[0] == OPTIONS:
        raise Refused(f"{line}: {OPTIONS} only tells what a run was made of; choose as in algo=cql")
    if override.package is not None or "/" in key or key in choices:
        return
    if (choice := f"algo@{key}") in choices and not isinstance(override.value(), dict):
        raise Refused(f"{line}: {key} is chosen by name; write {choice}={str(line).partition('=')[2]}")
    follow(cfg, key)
    if override.value() == {} and OmegaConf.select(cfg, key, throw_on_resolution_failure=False):
        raise Refused(f"{line}: a table is merged into what is there, so this removes nothing; ~{key}.<key> does")


def _objects(cfg: DictConfig) -> dict[str, Any]:
    """The root's objects by name."""
    try:
        content: Any = OmegaConf.to_object(cfg)
    except Refused as refusal:
        raise placed(cfg, refusal) from refusal
    except OmegaConfBaseException as error:
        raise sentence(error) or error from error
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        # The constructor of a part, which may be other people's, met a value that it did not think of.
        raise foreign_error(f"making {'.'.join(place(cfg)[0])} of its values", error) from error
    refuse_strays(content)
    # Where several names lead to one part, it is told by its own.
    own = [str(name) for name in cfg if not cfg._get_node(name)._is_interpolation()]  # type: ignore[union-attr]
    check_numbers({name: content[name] for name in sorted(own, key=lambda name: name not in ROOT)})
    for name, value in content.items():
        # A group may only choose, as `actions` does, and leave nothing at the root.
        if name not in (*ROOT, OPTIONS) and not isinstance(value, Stage) and value != {}:
            hint = nearest(name, content.keys() - {name}) if isinstance(value, dict) else "a stage is expected there"
            raise Refused(f"{name} is {value!r}, which nothing reads; {hint}")
    for name in ("seed", "targets", "outputs", "dry_run", "film"):
        if content[name] is None:
            raise Refused(f"{name} is null; a value is expected there, or leave it out")
    targets = content["targets"]
    if not isinstance(targets, list) or len(set(targets)) < len(targets):
        raise Refused(f"targets is {targets!r}; a list of stages is expected, as in targets=[score], and each once")
    return dict(content)


def _check_learner(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """An algorithm that says nothing of an agent has one for each learner that it knows."""
    algo, learner = choices.get("algo"), choices.get("algo@learner")
    if OmegaConf.is_missing(cfg.learner, "agent"):
        raise Refused(f"algo@learner={learner} has no agent of its own; choose one that has, as in algo@learner=ppo")
    if OmegaConf.is_missing(cfg.algo, "agent"):
        raise Refused(
            f"algo@learner={learner}: algo={algo} has no impl/learner/{algo}_{learner}.yaml; choose a learner that it "
            "has, as in algo@learner=ppo"
        )


def unread(experiment: Experiment, order: Sequence[str]) -> list[Override]:
    """Overrides of what nothing reads among the stages in `order`, directly or through interpolations."""
    read, ahead = set(), [*order, *(name for name, kind in ROOT.items() if kind is not Algo)]
    while ahead:
        if (name := ahead.pop()) not in read:
            read.add(name)
            ahead += experiment.references.get(name, ())
    found = []
    for override in parsed(experiment.overrides, sweep=False):
        # An option is of what its package says: algo@learner; one of `algo` also names the run.
        root = (override.package or override.key_or_group).partition(".")[0]
        names_run = override.key_or_group == "algo" and override.package is None
        if root in experiment.references and not names_run and root not in read and not override.is_delete():
            found.append(override)
    return found


def refuse_unread(overrides: Sequence[Override]) -> None:
    """Refuse the first of overrides that nothing reads; those of a stage that this run leaves out are told of.

    One line with other targets, or with an algorithm that needs no data, keeps its settings of the other stages.
    """
    for override in overrides:
        root = (override.package or override.key_or_group).partition(".")[0]
        if ROOT.get(root) is Algo:
            raise Refused(
                f"{override.input_line}: no stage of this run reads {root}; set what is below algo, or leave it out"
            )
        tell(f"{override.input_line}: changes nothing, as {root} is no part of this run; targets=[...] names what is")


def _check_actions(env: Env | None, stages: Mapping[str, Stage], choices: Mapping[str, Any], store: Path) -> None:
    """The losses were chosen for `actions` before any environment was made or file opened: they must agree."""
    stored_as = ""
    if env is not None:
        told = {f"env.id={env.id}": env.spaces()}
    else:
        for stage in stages.values():
            stage.look(None, store)
        stored_as = " (amounts are stored as floats, numbers of actions as integers)"
        told = {
            f"the file of {name}": spaces for name, stage in stages.items() if (spaces := stage.spaces()) is not None
        }
    chosen = choices.get("actions")
    for what, spaces in told.items():
        if chosen != (real := spaces.actions):
            raise Refused(
                f"{what} has {real} actions, the configuration was composed for {chosen}; add actions={real}{stored_as}"
            )


def _check_folder(outputs: str) -> Path:
    """What a run keeps there can be made, which is found out by making and removing a folder."""
    if not outputs:
        raise Refused("outputs is empty; a folder is expected, as in outputs=elsewhere")
    wanted = Path(outputs).absolute()
    for folder in (wanted, *(wanted / name for name in ("artifacts", "runs", "sweeps"))):
        found = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
        try:
            with suppress(FileNotFoundError):
                folder.lstat()  # a name may be too long
            made = found / f".lfd-{os.getpid()}"
            made.mkdir(exist_ok=True)
            made.rmdir()
        except (OSError, ValueError) as error:
            if isinstance(ending := system_error(error), DiskFull):
                raise ending from error
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise Refused(
                f"outputs={outputs}: {found} is no folder that can be written to ({reason}); choose another"
            ) from error
    return Path(outputs)


def _check_film(env: Env) -> None:
    """Some environments cannot be drawn, and some not on every machine."""
    drawn = env.make(1, training=False, render=True)
    try:
        drawn.reset([0])
        with warnings.catch_warnings(), foreign_code(f"film=true: drawing {env.id}", "leave film out"):
            warnings.simplefilter("ignore")  # they say the same, and less well
            drawn.render()
    finally:
        drawn.close()
