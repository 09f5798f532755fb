"""From a composed configuration to working objects: with cli.py the only room that knows Hydra."""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import BooleanNode, DictConfig, ListConfig, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException
from omegaconf.nodes import IntegerNode

from lfd.envs import Env
from lfd.errors import Refused, nearest
from lfd.hardware import Hardware
from lfd.learner import Algo, Phase, Target
from lfd.log import Logger, NoLogger, Tensorboard, Wandb
from lfd.optim import Optim
from lfd.refusals import alias_of, follow, parsed, placed, sentence
from lfd.registry import AGENTS, ENVS, LOSSES, SOURCES, with_plugins
from lfd.stages import Stage
from lfd.stages.appraise import Appraise
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.experts import Later, Live, Pretrained, Script
from lfd.stages.fit import Fit
from lfd.stages.inspect import Inspect
from lfd.stages.load import Load
from lfd.stages.relabel import Relabel

STAGES: dict[str, type[Stage]] = {
    "fit": Fit,
    "collect": Collect,
    "load": Load,
    "evaluate": Evaluate,
    "appraise": Appraise,
    "pretrained": Pretrained,
    "script": Script,
    "live": Live,
    "later": Later,
    "inspect": Inspect,
    "relabel": Relabel,
}
LOGGERS: dict[str, type[Logger]] = {"none_schema": NoLogger, "wandb_schema": Wandb, "tensorboard_schema": Tensorboard}

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
    tables = {
        "stage": STAGES, "env": ENVS, "logger": LOGGERS, "loss": LOSSES, "source": SOURCES, "agent": AGENTS,
    }  # fmt: skip
    for group, table in tables.items():
        for name, kind in with_plugins(group, table).items():  # type: ignore[arg-type]
            store.store(group=group, name=name, node=kind)


def build(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str]) -> Experiment:
    """The objects of a composed configuration. Raises Refused."""
    for override in parsed(overrides, sweep=False):
        is_key = override.package is None and "/" not in override.key_or_group and override.key_or_group not in choices
        if is_key and not override.is_delete():
            follow(cfg, override.key_or_group)
    _check_learner(cfg, choices)
    _check_read(cfg, overrides)
    content = _objects(cfg)
    names = {key: str(choices[key]) for key in ("algo", "env", "dataset", "pipeline") if key in choices}
    env = content["env"]
    stages = {name: node for name, node in content.items() if isinstance(node, Stage)}
    if env is not None and any(override.key_or_group == "env.id" for override in parsed(overrides, sweep=False)):
        # `env=gym` says nothing; and the name is to be one of a folder
        names["env"] = re.sub(r"[^\w.-]+", "-", env.id)
    if env is None and content["film"]:
        raise Refused("film=true: with env=none there is nothing to film; leave it out, or choose an env")
    if content["seed"] < 0:
        raise Refused(f"seed is {content['seed']}; 0 or more is expected")
    content["hardware"].open()
    outputs = Path(content["outputs"])
    _check_folder(outputs)
    _check_actions(env, stages, choices, outputs / "artifacts")
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
        config=OmegaConf.to_yaml(cfg, resolve=True),
        overrides=overrides,
    )


def _objects(cfg: DictConfig) -> dict[str, Any]:
    """The root's objects by name."""
    try:
        content: Any = OmegaConf.to_object(cfg)
    except Refused as refusal:
        raise placed(cfg, refusal) from refusal
    except OmegaConfBaseException as error:
        raise sentence(error) or error from error
    refuse_strays(content)
    for name, value in content.items():
        # A group may only choose, as `actions` does, and leave nothing at the root.
        if name not in ROOT and not isinstance(value, Stage) and value != {}:
            hint = nearest(name, content.keys() - {name}) if isinstance(value, dict) else "a stage is expected there"
            raise Refused(f"{name} is {value!r}, which nothing reads; {hint}")
    targets = content["targets"]
    if not isinstance(targets, list):
        raise Refused(f"targets is {targets!r}; a list of stages is expected, as in targets=[score]")
    return dict(content)


def refuse_strays(value: Any, here: str = "") -> None:
    """Refuse keys that a component does not have: `+` and other people's yaml can add them, and nothing reads them."""
    if dataclasses.is_dataclass(value):
        known = {field.name for field in dataclasses.fields(value)}
        for name in vars(value).keys() - known:
            raise Refused(f"{here}.{name}: {here} has no {name!r}; {nearest(name, known)}")
    parts = value.items() if isinstance(value, dict) else vars(value).items() if dataclasses.is_dataclass(value) else ()
    for name, part in parts:
        refuse_strays(part, f"{here}.{name}".lstrip("."))


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


def _check_read(cfg: DictConfig, overrides: list[str]) -> None:
    """Refuse values of an algorithm at the root that no stage of this pipeline learns by."""
    names = [str(name) for name in cfg]
    nodes = {name: cfg[name] for name in names if not OmegaConf.is_missing(cfg, name)}
    used = {alias_of(cfg, f"{name}.algo") for name, node in nodes.items() if OmegaConf.is_dict(node) and "algo" in node}
    for override in parsed(overrides, sweep=False):
        root = override.key_or_group.partition(".")[0]
        if "." in override.key_or_group and ROOT.get(root) is Algo and root not in {"algo", *used}:
            raise Refused(f"{override.input_line}: no stage learns by {root}; set what is below algo, or leave it out")


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


def _check_folder(outputs: Path) -> None:
    """It can be made and written to, as far as that can be told without doing so."""
    place = outputs.absolute()
    found = next(one for one in (place, *place.parents) if one.exists())
    if not found.is_dir() or not os.access(found, os.W_OK):
        raise Refused(f"outputs={outputs}: {found} is no folder that can be written to; choose another")
