"""Registers every class of the configuration with Hydra under its registered name."""

from typing import Any

from omegaconf import BooleanNode, IntegerNode, ListConfig, StringNode

from lfd.config.loader import store, structured
from lfd.envs import Env
from lfd.errors import UserError
from lfd.hardware import Hardware
from lfd.learner.learner import Algo, Phase
from lfd.learner.optim import OptimConfig, Target
from lfd.log import Logger
from lfd.log.progress import print_message
from lfd.registry import BROKEN, PARTS, parts

OPTIONS = "options"  # key of the chosen options in a run's config.yaml; nothing reads it
# Keys at the root besides the stages, and their types.
ROOT: dict[str, Any] = {
    "seed": IntegerNode(0),
    "env": Env,
    "algo": Algo,
    "expert_algo": Algo,
    "hardware": Hardware,
    "logger": Logger,
    "targets": ListConfig([], element_type=str),
    "outputs": StringNode("outputs"),
    "dry_run": BooleanNode(False),
    "film": BooleanNode(False),
}


def register() -> None:
    """Adds every class to Hydra's ConfigStore, and prints a message for each part that cannot be used."""
    store(None, "schema", ROOT)
    store("algo", "schema", Algo)
    store("hardware", "hardware_schema", Hardware)
    # Options for new rows of a table, as in +optim@algo.optim.q=optim.
    for group, row in (("optim", OptimConfig), ("target", Target), ("phase", Phase)):
        store(group, group, row)
    for group in PARTS:
        for name, kind in parts(group).items():
            try:
                store(group, name, structured(kind, f"lfd.{group}: {name}"))
            except UserError as error:
                BROKEN[group, name] = error
    for refusal in BROKEN.values():
        print_message(f"left out: {refusal}")
