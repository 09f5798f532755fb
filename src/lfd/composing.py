"""Hydra's composition of conf/ and of a folder of the user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig

CONFIG = "config"  # the primary configuration in conf/


@final
class Composer:
    """Composes, and knows the options of groups.

    Hydra's public `compose` works once at a time in a process, and a sweep asks while it composes its jobs.

    Args:
        folder: conf/.
        own: a folder whose options come beside those of conf/, and before them.
    """

    def __init__(self, folder: Path, own: Path | None = None) -> None:
        version.setbase("1.3")
        folders = create_config_search_path(str(folder.absolute()))
        if own is not None:
            folders.prepend("command-line", f"file://{own.absolute()}")
        self._loader = ConfigLoaderImpl(folders)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with Hydra's own in it, as `hydra`. Raises Hydra's, omegaconf's and YAML's errors."""
        return self._loader.load_configuration(CONFIG, list(overrides), RunMode.RUN)

    def options(self, group: str) -> list[str]:
        """What may be chosen in a group; the schemas in it are for yaml files."""
        return [option for option in self._loader.get_group_options(group) if not option.endswith("schema")]
