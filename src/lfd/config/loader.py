"""Composes configurations with Hydra; the only module that uses internals of Hydra and OmegaConf."""

import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, final

import hydra
import yaml
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lfd.config.renamed import check_files
from lfd.errors import UserError
from lfd.registry import PARTS, is_place, part_at

CONFIG = "config"  # the primary configuration in conf/
# Hydra 1.3 asks for the version whose rules apply; 1.4 has no such argument, and asks before it replaces an option.
_IS_1_3 = hydra.__version__.startswith("1.3.")
BASE: dict[str, str] = {"version_base": "1.3"} if _IS_1_3 else {}
_REPLACE: dict[str, Any] = {} if _IS_1_3 else {"replace": True}
LOCAL = ("outputs", "logger", "hardware")  # keys that conf/local/default.yaml may set
LARGEST = 100_000  # maximum number of values in a file after its aliases are written out


def store(group: str | None, name: str, node: Any, package: str | None = None) -> None:
    """Registers an option that has no file."""
    ConfigStore.instance().store(name, node, group, package, **_REPLACE)


def structured(kind: type[Any], description: str) -> DictConfig:
    """The configuration of a class. Raises UserError, which begins with `description`, if OmegaConf refuses a type."""
    try:
        return cast(DictConfig, OmegaConf.structured(kind))
    except OmegaConfBaseException as error:
        # a plugin's class may have fields of other types
        reason = str(error).partition("\n")[0]
        raise UserError(f"{description}: expected fields of types of OmegaConf: {reason}") from error


def child_node(owner: Container, key: Any) -> Node | None:
    """The node at a key, an interpolation not resolved; None if the key does not exist."""
    node = owner._get_node(key)
    assert not isinstance(node, list)
    return node


def is_empty(node: Node | None) -> bool:
    """True if there is no node, or its value is null or missing."""
    return node is None or node._is_none() or node._is_missing()


def interpolation(node: Node | None) -> str:
    """The text of an interpolation, such as "${algo.lr}"; "" for any other node."""
    return str(node._value()) if node is not None and node._is_interpolation() else ""


def declared_type(node: Node) -> Any:
    """The type that the dataclass around the node declares for it."""
    return node._metadata.ref_type


def object_type(node: Node) -> Any:
    """The class of a mapping or list; None if it is a single value."""
    return node._metadata.object_type


def plain_value(node: Node) -> Any:
    """The value of a node that holds a single value."""
    return node._value()


def resolved(node: Node) -> Node:
    """The node to which an interpolation leads. Raises OmegaConf's errors."""
    return node._dereference_node()


def circular_option(error: RecursionError) -> str | None:
    """The option whose defaults list contains itself, such as "algo/mine"; None if the recursion has another cause."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        node: Any = getattr(frame.f_locals.get("root"), "node", None)
        if hasattr(node, "get_config_path"):
            return str(node.get_config_path())
    return None


@final
class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's reader of yaml files, which Hydra finds by the name of this class.

    `load_config` raises UserError with the path of a file that is no configuration.
    """

    def is_config(self, config_path: str) -> bool:
        """True also for an option such as `loss/my_module:MyLoss`, which is the class of a module."""
        return _is_class(config_path) or super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        if _is_class(config_path):
            group, _, place = config_path.partition("/")
            config = structured(part_at(group, place), f"{group}={place}")
            return ConfigResult(config=config, path=self.path, provider=self.provider, header={"package": None})
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            _check_size(path)
            result = super().load_config(config_path)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: expected a YAML file, got bytes that are no text ({error.reason})") from error
        except RecursionError as error:
            raise UserError(
                f"{path}: expected less deep values, got a value that contains itself; change it"
            ) from error
        except (OSError, ValueError, yaml.reader.ReaderError) as error:
            raise UserError(f"{path}: expected a YAML file, got {' '.join(str(error).split())}") from error
        if not isinstance(result.config, DictConfig):
            raise UserError(f"{path}: expected keys and values, as in `lr: 1e-3`, got a list or a single value")
        _check_defaults(path, result.config)
        if config_path.startswith("tuned/"):
            _check_tuned(path, result.config)
        return _local(path, result) if config_path.startswith("local/") else result


def _is_class(config_path: str) -> bool:
    group, _, option = config_path.partition("/")
    return group in PARTS and is_place(option)


def _check_defaults(path: Path, config: DictConfig) -> None:
    """Refuses a defaults list that is no list of options."""
    if child_node(config, "defaults") is None:
        return
    entries = OmegaConf.to_container(config, resolve=False)["defaults"]  # type: ignore[call-overload,index]
    if not isinstance(entries, list) or not all(isinstance(entry, str | dict) for entry in entries):
        raise UserError(f"{path}: defaults: expected a list of options, as in [schema, _self_], got {entries}")


def _chosen(config: Container) -> list[str]:
    """The groups and files in a defaults list, as in ["override /logger", "/tuned/pendulum/bc"]."""
    entries: Any = OmegaConf.to_container(config).get("defaults") or []  # type: ignore[union-attr]
    words = [word for entry in entries for word in ([entry] if isinstance(entry, str) else entry)]
    return [word for word in words if word != "_self_"]


def _check_tuned(path: Path, config: DictConfig) -> None:
    """Refuses a file of tuned/ that chooses other files than such."""
    for name in _chosen(config):
        if not re.fullmatch(r"(optional )?(/tuned/.*|[^/ ]+)", name):
            raise UserError(
                f"{path}: expected values, or files of tuned/ in its defaults list, got {name}; choose parts in "
                "algo/<name>.yaml"
            )


def _local(path: Path, result: ConfigResult) -> ConfigResult:
    """A file of local/, in which `logger: wandb` stands for an entry `override /logger: wandb` of its defaults list.

    Raises UserError if it sets more than outputs, logger and hardware.
    """
    content: Any = OmegaConf.to_container(result.config)
    options = {key: content.pop(key) for key in LOCAL[1:] if isinstance(content.get(key), str)}
    groups = [re.sub(r"^(override |optional )*/?|@_global_$", "", name) for name in _chosen(result.config)]
    package = result.header.get("package") or "_global_"
    moved = [] if package == "_global_" else [f"@package {package}"]
    for name in [*moved, *groups, *(str(key) for key in content if key != "defaults")]:
        if name not in LOCAL:
            raise UserError(
                f"{path}: expected only the keys {', '.join(LOCAL)}, got {name}; set it in experiment/<name>.yaml and "
                "choose experiment=<name>"
            )
    content["defaults"] = [
        *(content.get("defaults") or ["_self_"]),
        *({f"override /{group}": option} for group, option in options.items()),
    ]
    return replace(result, config=OmegaConf.create(content))


def _check_size(path: Path) -> None:
    """Refuses a file that would fill the memory when its aliases are written out."""
    text = path.read_text(encoding="utf-8")
    if "&" not in text or "*" not in text:
        return
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = LARGEST  # a node that contains itself is infinite
            content = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for entry in content for part in (entry if isinstance(entry, tuple) else (entry,))]
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    if (root := yaml.compose(text, yaml.CSafeLoader)) is not None and size(root) > LARGEST:
        raise UserError(f"{path}: expected at most {LARGEST:,} values, got more through aliases; use fewer aliases")


@final
class Loader:
    """Composes configurations and lists the options of groups.

    Hydra's public `compose` cannot be called while another composition of the process is open, as in a sweep.

    Args:
        folder: conf/.
        own: a folder of further options, which come before those of conf/. Raises UserError if it does not exist or
            has a file where earlier versions looked for it.
    """

    def __init__(self, folder: Path, own: Path | None = None) -> None:
        if BASE:
            version.setbase(BASE["version_base"])
        Plugins.instance()  # registers the reader that the next line replaces
        SourcesRegistry.instance().types["file"] = FileConfigSource
        self._folders = [folder] if own is None else [own, folder]
        search_path = create_config_search_path(str(folder.absolute()))
        if own is not None:
            if not own.is_dir():
                raise UserError(f"--config-dir {own}: expected a folder, got nothing; create it, or leave the flag out")
            check_files(own)
            search_path.prepend("command-line", f"file://{own.absolute()}")
        self._loader = ConfigLoaderImpl(search_path)
        self._options: dict[str, list[str]] = {}  # by group; listing them takes Hydra some 20 ms
        for algo in self.options("algo"):
            # These options set nothing: other defaults lists refer to ${rl_algo}.
            store("rl_algo", algo, {}, package="_global_")

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration, with Hydra's own under `hydra`. Raises errors of Hydra, OmegaConf and YAML."""
        try:
            return self._loader.load_configuration(CONFIG, list(overrides), RunMode.RUN)
        except OmegaConfBaseException:
            raise
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise HydraException(f"{' '.join(overrides)}: cannot be composed: {message[:200]}") from error

    def master(self, settings: Sequence[str]) -> DictConfig:
        """The configuration of a sweep itself, by overrides of Hydra's settings."""
        return self._loader.load_configuration(CONFIG, [*settings, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)

    def job(self, master: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job of a sweep."""
        return self._loader.load_sweep_config(master, list(overrides))

    def launcher(self, master: DictConfig, task: Callable[[DictConfig], Any]) -> Launcher:
        """The launcher of a sweep, which calls `task` with the configuration of each job."""
        context = HydraContext(self._loader, Callbacks(master))
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)

    def file(self, name: str) -> Path:
        """The yaml file of an option such as "algo/mine"."""
        paths = [folder / f"{name}.yaml" for folder in self._folders]
        return next((path for path in paths if path.exists()), paths[-1])

    def bases(self, algo: str) -> list[str]:
        """The algorithms on which an algorithm builds, by the defaults list of its file, the nearest first."""
        direct = [name for name in _chosen(OmegaConf.load(self.file(f"algo/{algo}"))) if name in self.options("algo")]
        return [*direct, *(further for name in direct for further in self.bases(name))]

    def options(self, group: str) -> list[str]:
        """The options that a user may choose in a group; schemas are left out."""
        if group not in self._options:
            self._options[group] = self._list_options(group)
        return self._options[group]

    def _list_options(self, group: str) -> list[str]:
        names = [name for name in self._loader.get_group_options(group) if not name.endswith("schema")]
        # Options in subfolders, as tuned@algo=pendulum/cql.
        paths = [path for folder in self._folders for path in sorted((folder / group).glob("*/*.yaml"))]
        return names or [f"{path.parent.name}/{path.stem}" for path in paths]
