"""What is wrong with a configuration, as one line: Hydra's and omegaconf's errors, and what these let pass."""

import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError

from lfd.composing import Composer
from lfd.errors import Refused, nearest
from lfd.registry import BROKEN

UNSOUND = (HydraException, OmegaConfBaseException, MarkedYAMLError, RecursionError)  # what composing raises
_FOLDERS = ("hydra.run.", "hydra.sweep.", "hydra.output_subdir", "hydra.job.chdir")
_KINDS = {"Integer": "a whole number", "Float": "a number"}


def parsed(overrides: Sequence[str], sweep: bool) -> list[Override]:
    """The overrides of a command line. Raises Refused if one is malformed, or a key is given twice."""
    parser = OverridesParser.create()
    found: dict[str, Override] = {}
    for line in overrides:
        try:
            override = parser.parse_override(line)
        except HydraException as error:
            raise Refused(f"{line}: cannot be read; key=value is expected, as in learn.steps=500") from error
        if not override.key_or_group:
            raise Refused(f"{line}: there is no key; key=value is expected, as in learn.steps=500")
        if override.is_delete() and not isinstance(override.value(), str | None):
            raise Refused(f"{line}: ~ takes a key away and needs no value; write ~{override.key_or_group}")
        if override.is_sweep_override() and not sweep:
            as_list = f"{line.partition('=')[0]}=[...]"
            raise Refused(f"{line}: several values; add -m to run one job each, or write {as_list} for a list")
        key = override.get_key_element().lstrip("+~")
        if key.startswith(_FOLDERS):
            raise Refused(
                f"{line}: a run's folder is named by what it computes; choose where all are kept: outputs=..."
            )
        if key.startswith("hydra.") and not sweep:
            raise Refused(f"{line}: Hydra's own settings are for sweeps; add -m, or leave it out")
        if key.startswith("hydra.sweeper.params"):
            # Hydra's own parser fails on what it then merges.
            raise Refused(f"{line}: expected values on the line itself; list them, as in -m seed=0,1,2")
        if key in found:
            raise Refused(f"{found[key].input_line} {line}: {key} is given twice; leave one out")
        found[key] = override
    return list(found.values())


_PLACES = re.compile(r"(\+{0,2}(?:outputs|(?:\w+\.)*path)=)(.*)", re.DOTALL)
_QUOTED = re.compile(r"""\s*('([^'\\]|\\.)*'|"([^"\\]|\\.)*")\s*""", re.DOTALL)


def literal(line: str, sweep: bool) -> str:
    """An override as it was typed; what it gives as a path is quoted for Hydra, to which `,`, `=` and others are signs.

    In a sweep, commas part several paths, unless there is a file of the whole name.
    """
    match = _PLACES.fullmatch(line)
    if match is None or match[2] in ("", "null", "???") or _QUOTED.fullmatch(match[2]):
        return line
    key, path = match.groups()
    if sweep and not _exists(path):
        try:
            OverridesParser.create().parse_override(line)
            return line
        except HydraException:
            return key + ",".join(map(_quoted, path.split(",")))
    return key + _quoted(path)


def _quoted(path: str) -> str:
    if _QUOTED.fullmatch(path):
        return path
    if "${" in path and _exists(path):
        path = path.replace("${", "\\${")
    # Backslashes are doubled only before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), path)
    return f"'{escaped}'"


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError):
        return False


def follow(cfg: DictConfig, key: str, new: bool = False) -> None:
    """Refuse a dotted key that leads nowhere, or through an alias as `learn.algo.lr` into `algo.lr`.

    With `new` its end need not exist.
    """
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth])
        if not isinstance(node, DictConfig) or node._is_none():
            raise Refused(f"{key}: {here} is {node}, which has no {part!r}; give {here} as a whole")
        if part not in node.keys():  # noqa: SIM118 - `in node` denies keys whose value is missing
            is_field_of_new_row = depth < len(parts) - 1 and here.rpartition(".")[2] in _ROWS
            if new and not is_field_of_new_row:
                return
            raise Refused(f"{key}: {_unknown(node, here, part, key)}")
        raw = node._get_node(part)
        assert raw is not None and not isinstance(raw, list)
        alias, rest = ".".join(parts[: depth + 1]), ".".join(parts[depth + 1 :])
        if rest and (target := alias_of(cfg, alias)):
            raise Refused(f"{key}: {alias} is another name of {target}; set {target}.{rest}")
        node = raw


def alias_of(cfg: DictConfig, key: str) -> str:
    """The key that an interpolated one stands for; empty if it is none."""
    parent, _, name = key.rpartition(".")
    owner = OmegaConf.select(cfg, parent) if parent else cfg
    raw = owner._get_node(name) if isinstance(owner, DictConfig) else None
    if raw is None:
        return ""
    assert not isinstance(raw, list)
    return str(raw._value()).removeprefix("${").removesuffix("}") if raw._is_interpolation() else ""


# Tables by name: the group that a new row comes from, and its option there.
_ROWS = {
    "optim": ("optim", "row"), "targets": ("target", "row"), "phases": ("phase", "row"),
    "losses": ("loss", "<which>"), "sources": ("source", "<which>"),
}  # fmt: skip


def _unknown(node: DictConfig, here: str, part: str, key: str) -> str:
    known = [str(name) for name in node]
    owner = f"{here} has" if here else "there is"
    hint = nearest(part, known)
    if here and OmegaConf.get_type(node) is dict and not hint.startswith("did you mean"):
        group, option = _ROWS.get(here.rpartition(".")[2], ("", ""))
        added = f"add it with +{group}@{here}.{part}={option}" if group else f"new ones take a plus: +{key}=..."
        return f"{owner} no {part!r} yet; {added}"
    return f"{owner} no {part!r}; {hint}"


def placed(cfg: DictConfig, refusal: Refused) -> Refused:
    """The refusal of a part's value with the key of the part before it."""
    path, keys = place(cfg)
    text, where = str(refusal), ".".join(path)
    if not where or text.startswith(where):
        return refusal
    # A text begins with the field that it is about, where it is about one.
    return Refused(f"{where}.{text}" if text.partition(" ")[0].rstrip(":") in keys else f"{where}: {text}")


def place(node: DictConfig, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], list[str]]:
    """The deepest part that fails to be made, and its fields."""
    for name in node:
        child = node._get_node(name)
        if not isinstance(child, DictConfig) or child._is_interpolation() or child._is_none() or child._is_missing():
            continue
        try:
            OmegaConf.to_object(child)
        except OmegaConfBaseException:
            continue
        except Exception:
            return place(child, (*path, str(name)))
    return path, [str(name) for name in node]


def sentence(error: BaseException, composer: Composer | None = None) -> Refused | None:
    """Hydra's, omegaconf's or YAML's own error as a refusal; None if it is none of these.

    `composer` knows the files that they speak of.
    """
    cause = error.__cause__ or error.__context__
    match error:
        case MarkedYAMLError(problem_mark=mark, problem=problem):
            where = "" if mark is None else f"{Path(mark.name)}, line {mark.line + 1}: "
            return Refused(f"{where}this is not YAML: {problem}")
        case MissingMandatoryValue():
            return Refused(f"{error.full_key} is missing; add {error.full_key}=...")
        case MissingConfigException(missing_cfg_file=str(missing)):
            group, _, option = missing.rpartition("/")
            if (group, option) in BROKEN:
                return BROKEN[group, option]
            hint = nearest(option, [one for one in error.options or [] if not one.endswith("schema")])
            return Refused(f"{_reader(error, composer)}{group} has no option {option!r}; {hint}")
        case HydraException() if isinstance(cause, OmegaConfBaseException):
            return Refused(f"{_reader(error, composer)}{_value_error(cause)}")
        case OmegaConfBaseException():
            return Refused(_value_error(error))
        case RecursionError():
            return Refused(_circle(error, composer))
        case HydraException():
            text = re.sub(r"^In '.*?':", "", str(error).split("\nSee ")[0])
            return Refused(f"{_reader(error, composer)}{' '.join(text.split())}")
    return None


def _reader(error: HydraException, composer: Composer | None) -> str:
    """The yaml file that Hydra's message begins with, "In 'algo/mine': ..."; empty if it is about the command line."""
    match = re.match(r"In '(.*?)':", str(error))
    return f"{composer.file(match[1])}: " if match and composer else ""


def _circle(error: RecursionError, composer: Composer | None) -> str:
    """Which file lists itself, if one does; interpolations too can have no end."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        node: Any = getattr(frame.f_locals.get("root"), "node", None)
        if composer is not None and hasattr(node, "get_config_path"):
            path = composer.file(str(node.get_config_path()))
            return f"{path}: its defaults list leads back to itself; leave out what does"
    return "a value of the configuration refers to itself; give it one of its own"


def _value_error(error: OmegaConfBaseException) -> str:
    """omegaconf's message in our words: "algo.lr: a number is expected, not 'x'"."""
    text = str(error).partition("\n")[0]
    key = error.full_key or ""
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and isinstance(error.parent_node, DictConfig):
        return f"{key}: {_unknown(error.parent_node, key.rpartition('.')[0], str(error.key), key)}"
    if match := re.match(r"Value '(.*)' of type '(\w+)' could not be converted to (\w+)", text):
        value, given, wanted = match.groups()
        text = f"{_KINDS.get(wanted, wanted)} is expected, not {value!r}"
        text += "; write 1_000_000 for 1e6" if (given, wanted) == ("float", "Integer") and value.endswith(".0") else ""
    elif match := re.match(r"Value '(.*)' is not a valid bool", text):
        text = f"true or false is expected, not {match[1]!r}"
    elif match := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", text):
        text = f"there is no {match[1]!r}; {nearest(match[1], match[2].split(', '))}"
    elif key == "_dummy_" and (match := re.match(r"Interpolation key '(.*)' not found", text)):
        key, text = "", f"~{match[1]}: other choices depend on {match[1]}; choose another instead of none"
    elif text.endswith("does not support deletion"):
        text = "it cannot be taken away; set it to another value"
    elif text.endswith("is not Optional"):
        text = "null cannot stand here; a value is expected"
    elif text.startswith(("Invalid type assigned", "Cannot assign")):
        text = "a single value cannot stand here; set one of the keys below it"
    return f"{key}: {text}" if key else text


def check_hydra(hydra: DictConfig, master: DictConfig | None = None) -> None:
    """Refuse settings of Hydra's, in a file or on the line, that would be read by nobody.

    `master` is Hydra's own part of a sweep, of which `hydra` is a job's.
    """
    chosen = hydra.runtime.choices["hydra/sweeper"]
    if chosen != "basic":
        raise Refused(
            f"hydra/sweeper={chosen}: a sweep here runs all combinations of the values of its line; leave it out and "
            "list them, as in -m algo.lr=1e-4,1e-3"
        )
    for name in ("params", "max_batch_size"):
        if (value := hydra.sweeper.get(name)) is not None:
            raise Refused(f"hydra.sweeper.{name} is {value}: expected nothing; list the values, as in -m seed=0,1,2")
    folders = {"run.dir": ".", "sweep.dir": ".", "sweep.subdir": ".", "output_subdir": None, "job.chdir": False}
    for key, value in folders.items():
        if OmegaConf.select(hydra, key) != value:
            raise Refused(f"hydra.{key} is set: a run's folder is named by what it computes; set outputs=...")
    if master is None:
        if hydra.mode is not None and hydra.mode.name == "MULTIRUN":
            raise Refused("hydra.mode is MULTIRUN: a sweep is asked for on the line; add -m")
        if hydra.callbacks:
            raise Refused(f"hydra.callbacks has {', '.join(hydra.callbacks)}: only sweeps call them; add -m")
    elif hydra.launcher != master.launcher:
        raise Refused("hydra.launcher is set in a file: expected on the line, as in hydra/launcher=joblib")


def check_options(overrides: Iterable[Override], options_of: Callable[[str], Sequence[str]]) -> None:
    """Refuse the first choice of an option that its group does not have: Hydra takes none where a group is optional."""
    for override in overrides:
        key, group, value = override.get_key_element(), override.key_or_group, override.value()
        options = [] if override.is_delete() or override.is_sweep_override() else options_of(group)
        if not options:
            continue
        if isinstance(value, dict) or (isinstance(value, list) and not override.is_add()):
            several = ",".join(map(str, value)) or options[0]
            raise Refused(f"{override.input_line}: one option is expected; -m {key}={several} makes a job of each")
        for option in value if isinstance(value, list) else [value]:
            if (group, str(option)) in BROKEN:
                raise BROKEN[group, str(option)]
            if option not in options:
                # `null` is no slip of the pen, whatever looks like it
                word, typed = ("null", "") if option is None else (str(option), str(option))
                raise Refused(f"{key}={word}: {group} has no option {word!r}; {nearest(typed, options)}")


@final
class Tree:
    """What could have been written: the configuration with its groups chosen and no value overridden.

    Args:
        composer: of conf/ and the folders of this command line.
        overrides: those of the command line; of a sweep, those with one value.
    """

    def __init__(self, composer: Composer, overrides: Sequence[Override]) -> None:
        self._composer = composer
        single = [one for one in overrides if not one.is_sweep_override() and not one.is_delete()]
        self._groups = [one for one in single if composer.options(one.key_or_group)]
        self._values = [one for one in single if one not in self._groups]

    def check(self) -> None:
        """Refuse the first override that does not fit."""
        check_options(self._groups, self._composer.options)
        cfg = self._chosen()
        for override in self._values:
            follow(cfg, override.key_or_group, override.is_add() or override.is_force_add())
        for override in self._values:
            try:
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True, force_add=True)
            except OmegaConfBaseException as error:
                self._check_alias(cfg, override)
                raise Refused(_value_error(error)) from error

    def _check_alias(self, cfg: DictConfig, override: Override) -> None:
        """Refuse a value for what is another name of a part that a group chooses, as `learn.algo` is of `algo`."""
        key, value = override.key_or_group, override.value()
        target = alias_of(cfg, key)
        for choice in cfg.hydra.runtime.choices:
            group, _, package = choice.partition("@")
            if target == (package or group):
                options = self._composer.options(group)
                fit = value if value in options else options[0]
                raise Refused(
                    f"{override.input_line}: {key} is another name of {target}; choose one there, as in {choice}={fit}"
                )

    def _chosen(self) -> DictConfig:
        """The configuration with all groups chosen; each where there was a choice, or else added with a plus."""
        cfg = self._composer.compose([])
        plain = [one for one in self._groups if one.get_key_element() in cfg.hydra.runtime.choices]
        if plain:
            cfg = self._composer.compose([one.input_line or "" for one in plain])
        for override in self._groups:
            self._check_package(override, cfg.hydra.runtime.choices)
        if len(plain) == len(self._groups):
            return cfg
        return self._composer.compose([one.input_line or "" for one in self._groups])

    @staticmethod
    def _check_package(override: Override, chosen: Mapping[str, Any]) -> None:
        key, line = override.get_key_element().lstrip("+"), override.input_line
        if key in chosen and override.is_add():
            raise Refused(f"{line}: {key} is chosen already; leave out the plus")
        if key not in chosen and not (override.is_add() or override.is_force_add()):
            same = [other for other in chosen if other.partition("@")[0] == override.key_or_group]
            hint = f"{nearest(key, same)} " if same else ""
            raise Refused(f"{line}: nothing is chosen at {key}; {hint}a new one takes a plus: +{line}")
