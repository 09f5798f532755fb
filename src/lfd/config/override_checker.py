"""Finds the override that does not fit the configuration, and the way to write it."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lfd.config.errors import alias_of, resolve_key, value_message
from lfd.config.loader import Loader, child_node, is_empty
from lfd.config.overrides import check_options
from lfd.errors import UserError, suggest


@final
class OverrideChecker:
    """Checks overrides against the configuration in which all groups are chosen and no value is set.

    Args:
        loader: the loader of the command line's folders.
        overrides: those of the command line; overrides with several values are not checked.
    """

    def __init__(self, loader: Loader, overrides: Sequence[Override]) -> None:
        self._loader = loader
        single = [override for override in overrides if not override.is_sweep_override()]
        self._deletions = [override for override in single if override.is_delete()]
        checked = [override for override in single if override not in self._deletions]
        self._groups = [override for override in checked if loader.options(override.key_or_group)]
        self._values = [override for override in checked if override not in self._groups]

    def check(self) -> None:
        """Raises UserError for the first override that does not fit."""
        check_options(self._groups, self._loader.options)
        cfg = self._with_groups()
        for override in self._deletions:
            self._check_deletion(cfg, override)
        for override in self._values:
            self._check_group(cfg, override)
            resolve_key(cfg, override.key_or_group, override.is_add() or override.is_force_add())
        for override in self._values:
            self._check_null_part(cfg, override)
            try:
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True, force_add=True)
            except OmegaConfBaseException as error:
                self._check_alias(cfg, override)
                raise UserError(value_message(error)) from error

    @staticmethod
    def _check_group(cfg: DictConfig, override: Override) -> None:
        """Refuses a choice, as `+algoo@x=cql`, of a group that has no options."""
        group, line = override.key_or_group, override.input_line
        if override.package is not None or "/" in group:
            groups = {choice.partition("@")[0] for choice in cfg.hydra.runtime.choices if "hydra" not in choice}
            raise UserError(f"{line}: expected a group with options, got {group!r}; {suggest(group, groups)}")

    @staticmethod
    def _check_deletion(cfg: DictConfig, override: Override) -> None:
        """Refuses to remove a choice or a key that there is not."""
        line, choice = override.input_line, override.get_key_element().lstrip("~")
        choices = [str(choice) for choice in cfg.hydra.runtime.choices]
        if choice in choices:
            return
        if override.package is not None or "/" in choice:
            raise UserError(f"{line}: expected a choice that was made, got {choice!r}; {suggest(choice, choices)}")
        resolve_key(cfg, choice)

    def _check_null_part(self, cfg: DictConfig, override: Override) -> None:
        """Refuses a value for a part that is null and that an option of a group fills, as `acts_by` of an agent."""
        parent, _, name = override.key_or_group.rpartition(".")
        node = child_node(OmegaConf.select(cfg, parent), name) if parent else None
        options = self._loader.options(name)
        if options and isinstance(node, DictConfig) and is_empty(node) and override.value() is not None:
            raise UserError(
                f"{override.input_line}: expected an option of the group {name}; choose one, as in "
                f"+{name}@{override.key_or_group}={options[0]}"
            )

    def _check_alias(self, cfg: DictConfig, override: Override) -> None:
        """Refuses a value for an alias of a part that a group chooses, as `learn.algo` is of `algo`."""
        key, value = override.key_or_group, override.value()
        target = alias_of(cfg, key)
        for choice in cfg.hydra.runtime.choices:
            group, _, package = choice.partition("@")
            if target == (package or group):
                options = self._loader.options(group)
                option = value if value in options else options[0]
                raise UserError(
                    f"{override.input_line}: {key} is another name of {target}; choose an option, as in "
                    f"{choice}={option}"
                )

    def _with_groups(self) -> DictConfig:
        """The configuration with all groups chosen. Refuses a choice where there is none to replace, without a plus."""
        cfg = self._loader.compose([])
        replacing = [override for override in self._groups if override.get_key_element() in cfg.hydra.runtime.choices]
        if replacing:
            cfg = self._loader.compose([override.input_line or "" for override in replacing])
        for override in self._groups:
            self._check_package(override, cfg.hydra.runtime.choices)
        if len(replacing) == len(self._groups):
            return cfg
        return self._loader.compose([override.input_line or "" for override in self._groups])

    @staticmethod
    def _check_package(override: Override, choices: Mapping[str, Any]) -> None:
        key, line = override.get_key_element().lstrip("+"), override.input_line
        if key in choices and override.is_add():
            raise UserError(f"{line}: {key} is chosen already; leave out the plus")
        if key not in choices and not (override.is_add() or override.is_force_add()):
            same_group = [choice for choice in choices if choice.partition("@")[0] == override.key_or_group]
            hint = f"{suggest(key, same_group)} " if same_group else ""
            raise UserError(f"{line}: nothing is chosen at {key}; {hint}a new choice takes a plus: +{line}")
