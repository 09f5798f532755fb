"""Hydra's composition of conf/ and of a folder of the user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from lfd.errors import Refused

CONFIG = "config"  # the primary configuration in conf/
LARGEST = 100_000  # values that a file may stand for, its aliases written out


@final
class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's reader of yaml files, by whose name it goes; what is no configuration is refused with its file's path."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            _check_size(path)
            result = super().load_config(config_path)
        except UnicodeDecodeError as error:
            raise Refused(f"{path}: expected a YAML file, got bytes that are no text ({error.reason})") from error
        except RecursionError as error:
            raise Refused(f"{path}: its values are nested too deep, or contain themselves; write them out") from error
        except (OSError, ValueError, yaml.reader.ReaderError) as error:
            raise Refused(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
        cfg = result.config
        if not isinstance(cfg, DictConfig):
            raise Refused(f"{path}: keys and values are expected, as in `lr: 1e-3`")
        listed = cfg._get_node("defaults")
        if listed is not None:
            entries = listed._value() if isinstance(listed, ListConfig) else None
            if not isinstance(entries, list) or not all(isinstance(one._value(), str | dict) for one in entries):
                raise Refused(f"{path}: defaults is expected to list options, as in defaults: [schema, _self_]")
        return result


def _check_size(path: Path) -> None:
    """Refuse a file whose aliases stand for far more than it holds: writing them out would fill the memory."""
    text = path.read_text(encoding="utf-8")
    if "&" not in text or "*" not in text:
        return
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = LARGEST  # met again within itself, it has no end
            content = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for one in content for part in (one if isinstance(one, tuple) else (one,))]
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    if (root := yaml.compose(text, yaml.CSafeLoader)) is not None and size(root) > LARGEST:
        raise Refused(f"{path}: its aliases stand for more than {LARGEST:,} values; write out what is meant")


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
        Plugins.instance()  # brings in the reader whose place ours takes
        SourcesRegistry.instance().types["file"] = FileConfigSource
        self._folders = [folder] if own is None else [own, folder]
        folders = create_config_search_path(str(folder.absolute()))
        if own is not None:
            folders.prepend("command-line", f"file://{own.absolute()}")
        self._loader = ConfigLoaderImpl(folders)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with Hydra's own in it, as `hydra`. Raises Hydra's, omegaconf's and YAML's errors."""
        try:
            return self._loader.load_configuration(CONFIG, list(overrides), RunMode.RUN)
        except OmegaConfBaseException:
            raise
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise HydraException(f"{' '.join(overrides)}: this cannot be composed ({told[:200]})") from error

    def file(self, name: str) -> Path:
        """The file of an option, "algo/mine"."""
        paths = [folder / f"{name}.yaml" for folder in self._folders]
        return next((path for path in paths if path.exists()), paths[-1])

    def options(self, group: str) -> list[str]:
        """What may be chosen in a group; the schemas in it are for yaml files."""
        return [option for option in self._loader.get_group_options(group) if not option.endswith("schema")]
