"""Builds the objects of a composed configuration."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lfd.config.errors import PROVIDED_BY, find_failing_part, resolve_key, user_message, with_path
from lfd.config.loader import child_node, interpolation
from lfd.config.renamed import new_name
from lfd.config.schemas import OPTIONS, ROOT
from lfd.config.values import check_kinds, check_numbers, hidden, references, refuse_strays, resolved_yaml
from lfd.envs import Env
from lfd.errors import DiskFull, UserError, external_error, external_errors, suggest, system_error
from lfd.hardware import Hardware
from lfd.learner.learner import Algo
from lfd.log import Logger
from lfd.log.progress import print_message
from lfd.stages import Stage
from lfd.store.outputs import Outputs
from lfd.store.provenance import without_secrets

ACTIONS = "actions"  # the group by which an algorithm chooses its losses


class OtherActions(UserError):
    """The environment or the dataset's file has another kind of actions than the composed losses."""

    def __init__(self, message: str, actions: str) -> None:
        super().__init__(message)
        self.actions = actions


@dataclass
class Experiment:
    """One experiment: its parts, built and checked."""

    stages: dict[str, Stage]
    targets: list[str]
    env: Env | None
    hardware: Hardware
    logger: Logger
    seed: int
    outputs: Outputs
    dry_run: bool
    film: bool
    names: dict[str, str]  # chosen options that name the run: {"algo": "cql", "env": "cartpole"}; of env=gym its id
    options: dict[str, str]  # all options that a user chooses, by group or package
    references: dict[str, set[str]]  # name at the root -> the other names at the root that it refers to
    config: str  # the resolved configuration as YAML
    overrides: list[Override]

    @property
    def line(self) -> list[str]:
        """The overrides as they were typed."""
        return [str(override.input_line) for override in self.overrides]


def build(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[Override]) -> Experiment:
    """Builds the experiment of a composed configuration. Raises UserError."""
    for override in overrides:
        _check_override(cfg, override, choices)
    secrets = check_kinds(cfg, ROOT)
    try:
        content = _objects(cfg)
    except UserError as refusal:
        raise UserError(hidden(str(refusal), secrets)) from refusal
    names = {key: str(choices[key]) for key in ("algo", "env", "dataset", "pipeline") if key in choices}
    links = _references(cfg, choices)
    options = {key.rpartition("@")[2]: str(choices[key]) for key in sorted(choices) if _is_reported(key, links)}
    env = content["env"]
    stages = {name: node for name, node in content.items() if isinstance(node, Stage)}
    if env is not None and any(override.key_or_group == "env.id" for override in overrides):
        # the id says more than "gym"; folder names allow fewer characters
        names["env"] = re.sub(r"[^\w.-]+", "-", env.id)[:80]
    if env is None and content["film"]:
        raise UserError("film=true: expected an environment, got env=none; leave it out, or choose an env")
    content["hardware"].torch_device()
    outputs = _check_folder(content["outputs"])
    _check_actions(env, stages, choices, outputs.artifacts)
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
        references=links,
        overrides=overrides,
    )


def _is_reported(choice: str, links: Mapping[str, set[str]]) -> bool:
    """True for a group that users choose from and that this run reads; false for classes and hyperparameter files."""
    group, _, package = choice.partition("@")
    chosen_by_files = (
        "tuned",
        "stage",
        "net",
        "memory",
        "acts_by",
        "loss",
        "source",
        "optim",
        "target",
        "phase",
        "experiment",
        "local",
    )
    if "/" in group or group in chosen_by_files or "." in package or package.startswith("_"):
        return False
    return group != "rl_algo" or links.get("rl_algo") != set()


def _references(cfg: DictConfig, choices: Mapping[str, Any]) -> dict[str, set[str]]:
    """`references`, and an empty entry for `rl_algo` if no other choice depends on it."""
    links = references(cfg)
    if "rl_algo" not in cfg and not any(choice.startswith("by_rl_algo/") for choice in choices):
        links["rl_algo"] = set()
    return links


def _check_override(cfg: DictConfig, override: Override, choices: Mapping[str, Any]) -> None:
    """Refuses overrides that Hydra accepts and that have no effect or remove a required key."""
    key, line = override.key_or_group, override.input_line
    if override.is_delete():
        if key in ROOT:
            raise UserError(f"{line}: {key} is required; set it to another value, or leave this out")
        return
    if key.partition(".")[0] == OPTIONS:
        raise UserError(f"{line}: {OPTIONS} only records the choices of a run; choose as in algo=cql")
    if override.package is not None or "/" in key or key in choices:
        return
    if (choice := f"algo@{key}") in choices and not isinstance(override.value(), dict):
        raise UserError(f"{line}: {key} is chosen by name; write {choice}={str(line).partition('=')[2]}")
    resolve_key(cfg, key)
    if override.value() == {} and OmegaConf.select(cfg, key, throw_on_resolution_failure=False):
        raise UserError(f"{line}: {{}} is merged into {key} and has no effect; ~{key}.<key> removes a key")


def _objects(cfg: DictConfig) -> dict[str, Any]:
    """Builds the objects at the root, by name."""
    try:
        content: Any = OmegaConf.to_object(cfg)
    except UserError as refusal:
        raise with_path(cfg, refusal) from refusal
    except OmegaConfBaseException as error:
        raise user_message(error) or error from error
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        # The constructor of a part, perhaps a plugin's, fails on a value.
        raise external_error(f"{'.'.join(find_failing_part(cfg)[0])}: construction", error) from error
    refuse_strays(content)
    # Messages name a part by its own key, not by an alias.
    own = [str(name) for name in cfg if not interpolation(child_node(cfg, name))]
    check_numbers({name: content[name] for name in sorted(own, key=lambda name: name not in ROOT)})
    _check_root(content)
    return dict(content)


def _check_root(content: Mapping[str, Any]) -> None:
    """Refuses names at the root that nothing reads, and missing or wrong values of the other keys."""
    for name, value in content.items():
        if name not in (*ROOT, OPTIONS) and not isinstance(value, Stage | Algo):
            if message := new_name([""], str(name)):
                raise UserError(message)
            if name == "experiment":
                raise UserError(f"{name}: expected nothing, got {value!r}; begin the file with # @package _global_")
            hint = suggest(name, content.keys() - {name}) if isinstance(value, dict) else "leave it out"
            raise UserError(f"{name}: expected a stage, got {value!r}; {hint}")
    for name in ("seed", "targets", "outputs", "dry_run", "film"):
        if content[name] is None:
            raise UserError(f"{name}: expected a value, got null; leave it out")
    _check_targets(content)


def _check_targets(content: Mapping[str, Any]) -> None:
    targets = content["targets"]
    if not isinstance(targets, list) or len(set(targets)) < len(targets):
        raise UserError(f"targets: expected a list of different stages, as in targets=[score], got {targets!r}")
    for name in targets:
        if name not in content and (hint := new_name([""], name) or PROVIDED_BY.get(name)):
            raise UserError(f"targets: no stage is called {name!r}; {hint}")


def unread(experiment: Experiment, order: Sequence[str]) -> list[Override]:
    """Overrides of keys that no stage in `order` reads, directly or through interpolations."""
    read: set[str] = set()
    pending = [*order, *(name for name, kind in ROOT.items() if kind is not Algo)]
    while pending:
        if (key := pending.pop()) not in read:
            read.add(key)
            pending += experiment.references.get(key.partition(".")[0], ())
    overrides = []
    for override in experiment.overrides:
        key = override.package or override.key_or_group
        names_run = override.key_or_group == "algo" and override.package is None
        is_read = _root(override) in read or any(_overlap(key, other) for other in read)
        if _root(override) in experiment.references and not names_run and not is_read and not override.is_delete():
            overrides.append(override)
    return overrides


def _overlap(key: str, other: str) -> bool:
    """True if one of two dotted keys is the other, or lies below it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _root(override: Override) -> str:
    """The name at the root that an override changes; of algo@expert_algo it is the package, expert_algo."""
    root = (override.package or override.key_or_group).partition(".")[0]
    return "fqe" if root == "ope" else root


def refuse_unread(overrides: Sequence[Override]) -> None:
    """Refuses the first override of an algorithm that no stage reads; prints a message for those of other stages.

    So a command line with other targets, or with an algorithm that needs no data, can keep settings of other stages.
    """
    for override in overrides:
        root = _root(override)
        if ROOT.get(root) is Algo or root == "rl_algo":
            raise UserError(
                f"{override.input_line}: no stage of this run reads {override.package or override.key_or_group}; set "
                "keys of algo that a stage reads, or leave it out"
            )
        print_message(
            f"{override.input_line}: no effect, as {root} is no stage of this run; targets=[...] names the stages"
        )


def _check_actions(env: Env | None, stages: Mapping[str, Stage], choices: Mapping[str, Any], store: Path) -> None:
    """Refuses `actions` other than those of the environment or, without one, of the dataset file."""
    how_stored = ""
    if env is not None:
        spaces_by_origin = {f"env.id={env.id}": env.spaces()}
    else:
        for stage in stages.values():
            stage.inspect_inputs(None, store)
        how_stored = " (continuous actions are stored as floats, discrete ones as integers)"
        spaces_by_origin = {
            f"the file of {name}": spaces for name, stage in stages.items() if (spaces := stage.spaces()) is not None
        }
    for origin, spaces in spaces_by_origin.items():
        if choices.get(ACTIONS) != spaces.actions:
            raise OtherActions(
                f"{ACTIONS}: expected {spaces.actions}, as in {origin}, got {choices.get(ACTIONS)}; leave it out"
                f"{how_stored}",
                spaces.actions,
            )


def _check_folder(folder: str) -> Outputs:
    """Refuses a folder of outputs in which no folder can be made, by making and removing one."""
    if not folder:
        raise UserError("outputs: expected a folder, got ''; set it as in outputs=elsewhere")
    outputs = Outputs(Path(folder).absolute())
    for path in (outputs.root, outputs.artifacts, outputs.runs, outputs.sweeps):
        existing = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
        try:
            with suppress(FileNotFoundError):
                path.lstat()  # raises an error if the name is too long
            probe = existing / f".lfd-{os.getpid()}"
            probe.mkdir(exist_ok=True)
            probe.rmdir()
        except (OSError, ValueError) as error:
            if isinstance(run_error := system_error(error), DiskFull):
                raise run_error from error
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(
                f"outputs={folder}: expected a folder that can be written to, got {existing} ({reason}); choose another"
            ) from error
    return Outputs(Path(folder))


def _check_film(env: Env) -> None:
    """Refuses `film` if the environment cannot be rendered on this machine."""
    rendered = env.make(1, training=False, render=True)
    try:
        rendered.reset([0])
        with warnings.catch_warnings(), external_errors(f"film=true: rendering {env.id}", "leave film out"):
            warnings.simplefilter("ignore")  # the error that follows says the same
            rendered.render()
    finally:
        rendered.close()
