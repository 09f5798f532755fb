"""Hydra's composition of conf/ and of a folder of the user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

CONFIG = "config"  # the primary configuration in conf/


@final
class Composer:
    """Composes, and knows the options of groups.

    Args:
        folder: conf/.
        own: a folder whose options come beside those of conf/, and before them.
    """

    def __init__(self, folder: Path, own: Path | None = None) -> None:
        self._folder = str(folder.absolute())
        self._settings = [] if own is None else [f"hydra.searchpath=[file://{own.absolute()}]"]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with Hydra's own in it, as `hydra`. Raises Hydra's, omegaconf's and YAML's errors."""
        with initialize_config_dir(self._folder, version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            return loader.load_configuration(CONFIG, [*self._settings, *overrides], RunMode.RUN)

    def options(self, group: str) -> list[str]:
        """What may be chosen in a group; the schemas in it are for yaml files."""
        with initialize_config_dir(self._folder, version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            found = loader.get_group_options(group, config_name=CONFIG, overrides=self._settings)
        return [option for option in found if not option.endswith("schema")]
