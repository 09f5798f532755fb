"""Composes an experiment from the overrides of a command line."""

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, final

import hydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from lfd.config.errors import CONFIG_ERRORS, check_hydra, user_message
from lfd.config.experiment import ACTIONS, Experiment, OtherActions, build
from lfd.config.folder import config_folder
from lfd.config.loader import BASE, CONFIG, Loader
from lfd.config.override_checker import OverrideChecker
from lfd.config.overrides import check_options, literal, parsed
from lfd.config.renamed import check_renamed
from lfd.config.schemas import register
from lfd.errors import RunError, UserError
from lfd.log.progress import print_message_once


@final
class Composer:
    """Composes experiments from conf/ and a user's own folder.

    Args:
        own: a folder of further options, which come before those of conf/. Raises UserError if it cannot be used.
    """

    def __init__(self, own: Path | None = None) -> None:
        register()
        self.loader = Loader(config_folder(), own)

    def experiment(self, overrides: Sequence[str]) -> Experiment:
        """The experiment of overrides such as ["algo=bc", "seed=1"]. Raises UserError.

        Losses and nets follow the kind of actions of the environment or of the dataset's file: if it differs from the
        composed one, `actions=…` is added to the overrides.
        """
        return self._experiment(parsed(overrides, sweep=False), None)

    def job(self, master: DictConfig, overrides: Sequence[str]) -> Experiment:
        """The experiment of one job of a sweep; `master` is the sweep's own configuration. Raises UserError."""
        return self._experiment(parsed(overrides, sweep=False), master)

    def master(self, settings: Sequence[str]) -> DictConfig:
        """A sweep's own configuration, from overrides of Hydra's settings. Raises UserError."""
        try:
            master = self.loader.master(settings)
        except Exception as error:
            self._refuse(error, parsed(settings, sweep=True))
        check_hydra(master.hydra, master.hydra)
        return master

    def answer(self, arguments: Namespace, program: str) -> None:
        """Lets Hydra print the answer to --cfg, --info and similar flags. Raises UserError."""
        overrides = parsed(arguments.overrides, arguments.multirun)
        quoted = {line: literal(line, arguments.multirun) for line in arguments.overrides}
        # Hydra's own error handling would print its messages and exit 1. Hydra parses sys.argv itself.
        full_error, argv = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
        os.environ["HYDRA_FULL_ERROR"] = "1"
        # Its parser takes overrides only in one block, behind the flags.
        flags = [word for word in sys.argv[1:] if word not in quoted and word not in quoted.values()]
        sys.argv = [sys.argv[0], *flags, *quoted.values()]
        try:
            if arguments.cfg and arguments.package:
                self._check_package(list(quoted.values()), arguments.package)
            hydra.main(config_path=str(config_folder()), config_name=CONFIG, **BASE)(lambda cfg: None)()
        except SystemExit as end:
            if end.code:
                raise UserError(f"flags: expected one that Hydra answers; `{program} --help` lists the flags") from end
        except Exception as error:
            self._refuse(error, overrides)
        finally:
            sys.argv = argv
            os.environ.pop("HYDRA_FULL_ERROR")
            if full_error is not None:
                os.environ["HYDRA_FULL_ERROR"] = full_error

    def _check_package(self, overrides: Sequence[str], package: str) -> None:
        if OmegaConf.select(self.loader.compose(overrides), package) is None:
            raise UserError(f"--package {package}: expected a key of the configuration; leave it out to print all keys")

    def _experiment(self, overrides: list[Override], master: DictConfig | None) -> Experiment:
        roots = {override.key_or_group.partition(".")[0] for override in overrides}
        if ACTIONS in roots or not roots & {"env", "experiment"}:
            return self._built(overrides, master)
        try:
            return self._built(overrides, master)
        except OtherActions as refusal:
            return self._built(self._with_actions(overrides, refusal.actions), master)
        except UserError as refusal:
            # The keys of the line may be those of the other kind, which the environment or the file turns out to have.
            for actions in self.loader.options(ACTIONS):
                with suppress(UserError):
                    return self._built(self._with_actions(overrides, actions), master)
            raise refusal

    @staticmethod
    def _with_actions(overrides: list[Override], actions: str) -> list[Override]:
        return [*overrides, *parsed([f"{ACTIONS}={actions}"], sweep=False)]

    def _built(self, overrides: list[Override], master: DictConfig | None) -> Experiment:
        lines = [str(override.input_line) for override in overrides]
        try:
            cfg = self.loader.compose(lines) if master is None else self.loader.job(master, lines)
            check_options(overrides, self.loader.options)
            check_hydra(cfg.hydra, master and master.hydra)
            for choice, option in cfg.hydra.runtime.choices.items():
                # Hydra accepts any option of an optional group in a file.
                check_renamed([choice.partition("@")[0]], str(option), f"{choice}=")
        except Exception as error:
            self._refuse(error, overrides)
        choices = dict(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        try:
            experiment = build(cfg, choices, overrides)
        except UserError as refusal:
            raise self._with_file(refusal, choices, overrides) from refusal
        self._name_missing_values(choices)
        return experiment

    def _name_missing_values(self, choices: Mapping[str, Any]) -> None:
        """Prints a line if an algorithm has no values for the environment, and one on which it builds has some."""
        algo, env, tuned = (str(choices.get(choice)) for choice in ("algo", "env", "tuned@algo"))
        if self.loader.file(f"tuned/{tuned}").exists():
            return
        for base in self.loader.bases(algo):
            if self.loader.file(f"tuned/{env}/{base}").exists():
                print_message_once(
                    f"algo={algo} has no values for env={env} (tuned/{env}/{algo}.yaml); those of its base: "
                    f"tuned@algo={env}/{base}"
                )
                return

    def _with_file(self, refusal: UserError, choices: Mapping[str, Any], overrides: Sequence[Override]) -> UserError:
        """The error with the experiment's or pipeline's file in front, if that sets the key with which it begins."""
        message = str(refusal)
        key = message.split(maxsplit=1)[0].rstrip(":")
        if all(override.key_or_group != key for override in overrides):
            for group in ("experiment", "pipeline"):
                path = self.loader.file(f"{group}/{choices.get(group)}")
                if path.exists() and OmegaConf.select(OmegaConf.load(path), key) is not None:
                    return UserError(f"{path}: {message}")
        return refusal

    def _refuse(self, error: Exception, overrides: Sequence[Override]) -> NoReturn:
        """Raises the UserError for an error of a composition; the error itself if there is no message for it."""
        if isinstance(error, RunError):
            raise error
        try:
            OverrideChecker(self.loader, overrides).check()
        except UserError as refusal:
            raise refusal from error
        except CONFIG_ERRORS as file_error:
            # A file is wrong, not the command line.
            message = user_message(error, self.loader) or user_message(file_error, self.loader)
        else:
            message = user_message(error, self.loader)
        experiments = [override.input_line for override in overrides if override.key_or_group == "experiment"]
        if message and experiments and ".yaml" not in str(message):
            message = UserError(f"{experiments[0]}: {message}")
        raise message or error from error
