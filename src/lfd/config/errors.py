"""Errors of Hydra, OmegaConf and YAML as one-line messages, and checks that these libraries leave out."""

import re
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError

from lfd.config.loader import CONFIG, Loader, child_node, circular_option, interpolation, is_empty
from lfd.config.renamed import new_group, new_name
from lfd.errors import UserError, suggest
from lfd.registry import BROKEN

CONFIG_ERRORS = (HydraException, OmegaConfBaseException, MarkedYAMLError, RecursionError)  # raised by a composition
_KINDS = {"Integer": "a whole number", "Float": "a number"}


def resolve_key(cfg: DictConfig, key: str, new: bool = False) -> None:
    """Refuses a dotted key that does not exist, or leads through an alias, as `learn.algo.lr` instead of `algo.lr`.

    With `new` the last part of the key need not exist. Raises UserError.
    """
    node = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        parent = ".".join(parts[:depth])
        if not isinstance(node, DictConfig) or is_empty(node):
            raise UserError(f"{key}: {parent} is {node} and has no {part!r}; set {parent} as a whole")
        if part not in node.keys():  # noqa: SIM118 - `in node` denies keys whose value is missing
            is_field_of_new_row = depth < len(parts) - 1 and parent.rpartition(".")[2] in _ROWS
            if new and not is_field_of_new_row:
                return
            raise UserError(unknown_key_message(node, parent, part, key))
        alias, rest = ".".join(parts[: depth + 1]), ".".join(parts[depth + 1 :])
        if rest and (target := alias_of(cfg, alias)):
            raise UserError(f"{key}: {alias} is another name of {target}; set {target}.{rest}")
        node = child_node(node, part)  # type: ignore[assignment]


def alias_of(cfg: DictConfig, key: str) -> str:
    """The key to which an interpolated key refers; "" if the key is no interpolation."""
    parent, _, name = key.rpartition(".")
    owner = OmegaConf.select(cfg, parent) if parent else cfg
    node = child_node(owner, name) if isinstance(owner, DictConfig) else None
    return interpolation(node).removeprefix("${").removesuffix("}")


# Tables of named rows: the group of a new row, and its option.
_ROWS = {
    "optim": ("optim", "optim"), "targets": ("target", "target"), "phases": ("phase", "phase"),
    "losses": ("loss", "<option>"), "sources": ("source", "<option>"),
}  # fmt: skip

# Keys at the root that only some pipelines have, and how to get them.
PROVIDED_BY = {
    "fqe": "add ope=fqe",
    "reward_eval": "add pipeline=gail, or choose an algo whose pipeline has it",
    "rl_algo": "no stage of this run reads it; set keys of algo, or leave it out",
}


def unknown_key_message(node: DictConfig, parent: str, part: str, key: str) -> str:
    """The message for a key that does not exist: `part` of `node`, which is at `parent`; `key` as it was written."""
    kind = OmegaConf.get_type(node) if parent else None
    # Renamed rows of a table, as of losses, are listed under the table's name.
    owners = [*(base.__name__ for base in kind.__mro__), parent.rpartition(".")[2]] if kind is not None else [""]
    if kind is dict and {"start", "end"} <= node.keys():
        owners.append("Schedule")
    if message := new_name(owners, part, f"{parent}." if parent else ""):
        return message
    if not parent and part in PROVIDED_BY:
        return f"{key}: there is no {part!r}; {PROVIDED_BY[part]}"
    owner = f"{parent} has" if parent else "there is"
    hint = suggest(part, [str(name) for name in node])
    if parent and kind is dict and not hint.startswith("did you mean"):
        group, option = _ROWS.get(parent.rpartition(".")[2], ("", ""))
        added = f"add it with +{group}@{parent}.{part}={option}" if group else f"new ones take a plus: +{key}=..."
        return f"{key}: {owner} no {part!r} yet; {added}"
    return f"{key}: {owner} no {part!r}; {hint}"


def with_path(cfg: DictConfig, refusal: UserError) -> UserError:
    """The error of a part's constructor, with the key of the part before its message."""
    path, fields = find_failing_part(cfg)
    message, key = str(refusal), ".".join(path)
    if not key or message.startswith(key):
        return refusal
    # A message begins with the name of its field if it is about one field.
    return UserError(f"{key}.{message}" if message.partition(" ")[0].rstrip(":") in fields else f"{key}: {message}")


def find_failing_part(node: DictConfig, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], list[str]]:
    """Path and field names of the innermost part whose constructor raises an error."""
    for name in node:
        child = child_node(node, name)
        if not isinstance(child, DictConfig) or interpolation(child) or is_empty(child):
            continue
        try:
            OmegaConf.to_object(child)
        except OmegaConfBaseException:
            continue
        except Exception:
            return find_failing_part(child, (*path, str(name)))
    return path, [str(name) for name in node]


def user_message(error: BaseException, loader: Loader | None = None) -> UserError | None:
    """An error of Hydra, OmegaConf or YAML as UserError; None for any other error.

    With a `loader` the message names the yaml file.
    """
    cause = error.__cause__ or error.__context__
    match error:
        case MarkedYAMLError(problem_mark=mark, problem=problem):
            location = "" if mark is None else f"{Path(mark.name)}, line {mark.line + 1}: "
            return UserError(f"{location}expected YAML, got a syntax error: {problem}")
        case MissingMandatoryValue():
            return UserError(_missing_message(str(error.full_key)))
        case MissingConfigException(missing_cfg_file=str(missing)):
            group, _, option = missing.rpartition("/")
            if (group, option) in BROKEN:
                return BROKEN[group, option]
            if message := new_name([group], option, f"{group}=") or new_group(group):
                return UserError(f"{_file(error, loader)}{message}")
            hint = suggest(option, [name for name in error.options or [] if not name.endswith("schema")])
            return UserError(f"{_file(error, loader)}{group} has no option {option!r}; {hint}")
        case HydraException() if isinstance(cause, OmegaConfBaseException):
            return UserError(f"{_file(error, loader)}{value_message(cause)}")
        case OmegaConfBaseException():
            return UserError(value_message(error))
        case RecursionError():
            return UserError(_circle_message(error, loader))
        case HydraException():
            return UserError(_hydra_message(error, loader))
    return None


def _missing_message(key: str) -> str:
    # A file that sets a row by its old name makes a new row, whose other fields are missing.
    *parents, row, _ = ["", "", *key.split(".")]
    renamed = new_name(parents[-1:], row, ".".join([*parents[2:], ""]))
    return renamed or f"{key}: expected a value, got none; add {key}=..."


_PLACE = r"In '?([\w/]+)'?:"
# Texts of Hydra, as patterns, and those of lfd for them.
_HYDRA_TEXTS = (
    (
        r"Multiple values for (.*)\. To override a value use 'override (.*)'",
        r"\1: expected one choice, got two; write override /\2",
    ),
    (
        r"Override '(.*?) : (.*?)' is defined before '(.*?)'\.",
        r"override /\1: \2: expected at the end of the defaults list, got it before \3; move it",
    ),
    (
        r"(\S+) appears more than once in the final",
        r"\1: expected in one defaults list, got it twice; remove one",
    ),
    (r"Duplicate _self_ defined in (\S+)", r"\1: expected _self_ once in the defaults list, got it twice; remove one"),
    (
        r"(\S+): Default List Overrides are not allowed in .* \(override (.*)\)",
        r"\1.yaml: override /\2: expected no override in a file that another choice names; set values alone",
    ),
    (
        r"force-add of config groups .*: '\+*(.*)'",
        r"++\1: expected at most one plus before it, got two; write \1",
    ),
)


def _hydra_message(error: HydraException, loader: Loader | None) -> str:
    """Hydra's own message in one line, the same for Hydra 1.3 and 1.4."""
    text = " ".join(re.sub(_PLACE, "", str(error).split("\nSee ")[0]).split())
    if match := re.match(r"Error resolving interpolation '(.*)', possible interpolation keys: (.*)", text):
        known = match[2].split(", ")
        for name in re.findall(r"\$\{(.*?)\}", match[1]):
            if name not in known:
                return f"~{name}: other choices depend on {name}; choose another option instead"
    if match := re.match(r"Invalid Defaults List override .*No earlier Group Default for '(.*)' exists", text):
        # Hydra 1.3 lists the choices of the group, 1.4 does not.
        group, choices = match[1].partition("@")[0], loader.compose([]).hydra.runtime.choices if loader else ()
        known = ", ".join(str(choice) for choice in choices if str(choice).partition("@")[0] == group)
        text = f"Could not override '{match[1]}'. " + (f"Did you mean to override {known}?" if known else "No match")
    if re.match(r"Could not override '[\w/]+@experiment\.", text):
        return f"{_file(error, loader)}expected `# @package _global_` as the first line of an experiment"
    if match := re.match(r"Could not override '(.*?)'\. (No match|Did you mean to override (one of )?(.*)\?)", text):
        way_out = f"did you mean {match[4]}?" if match[4] else "leave it out"
        text = new_group(match[1]) or f"override /{match[1]}: expected a choice made before, got none; {way_out}"
    text = next((match.expand(ours) for theirs, ours in _HYDRA_TEXTS if (match := re.match(theirs, text))), text)
    return f"{_file(error, loader)}{text}"


def _file(error: HydraException, loader: Loader | None) -> str:
    """The yaml file in Hydra's message "In 'algo/mine': ..."; "" for conf/config.yaml, which lists the choices."""
    match = re.match(_PLACE, str(error))
    path = loader.file(match[1]) if match and loader and match[1] != CONFIG else None
    return f"{path}: " if path and path.exists() else ""  # classes have no file


def _circle_message(error: RecursionError, loader: Loader | None) -> str:
    option = circular_option(error)
    if loader is None or option is None:
        return "the configuration has a value that refers to itself; set that key to a value"
    return f"{loader.file(option)}: its defaults list leads back to this file; remove the entry that does"


# Texts of OmegaConf, as patterns, and those of lfd for them.
_TEXTS = (
    (r"Value '(.*)' is not a valid bool", r"expected true or false, got '\1'"),
    (r"Interpolation key '.*' not found \(resolved to '(.*)'\)", r"Interpolation key '\1' not found"),
    (r".* does not support deletion$", "it cannot be removed; set it to another value"),
    (r".* is not Optional$", "expected a value, got null"),
    (
        r"Merge error: .* is not a subclass of (\w+)\. value: (.*)",
        r"expected the keys of \1, got '\2'; choose an option in the defaults list",
    ),
    (r"Cannot convert '\w+' to string: '(.*)'", r"expected a single value, got \1"),
    (
        r"Could not create instance of `(\w+)`: Can't instantiate abstract class",
        r"expected values of a row that there is, got a new row; choose its \1 in the defaults list of an algo",
    ),
    (r"Invalid type assigned|Cannot assign", "expected a mapping; set one of its keys"),
)


def value_message(error: OmegaConfBaseException) -> str:
    """OmegaConf's message in the form "algo.lr: expected a number, got 'x'"."""
    text = str(error).partition("\n")[0]
    key = error.full_key or ""
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and isinstance(error.parent_node, DictConfig):
        return unknown_key_message(error.parent_node, key.rpartition(".")[0], str(error.key), key)
    if match := re.match(r"Value '(.*)' of type '(\w+)' could not be converted to (\w+)", text):
        value, kind, expected = match.groups()
        text = f"expected {_KINDS.get(expected, expected)}, got {value!r}"
        text += "; write 1_000_000 for 1e6" if (kind, expected) == ("float", "Integer") and value.endswith(".0") else ""
    elif match := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", text):
        if message := _renamed_value(error, match[1]):
            return message
        text = f"expected another value, got {match[1]!r}; {suggest(match[1], match[2].split(', '))}"
    elif key == "_dummy_" and (match := re.match(r"Interpolation key '(.*)' not found", text)):
        key, text = "", f"~{match[1]}: other choices depend on {match[1]}; choose another option instead"
    else:
        text = next((match.expand(ours) for theirs, ours in _TEXTS if (match := re.match(theirs, text))), text)
    return f"{key}: {text}" if key else text


def _renamed_value(error: OmegaConfBaseException, value: str) -> str:
    owner = OmegaConf.get_type(error.parent_node) if isinstance(error.parent_node, DictConfig) else None
    owners = [base.__name__ for base in owner.__mro__] if owner is not None else []
    parent = str(error.full_key).rpartition(".")[0]
    return new_name(owners, f"{error.key}={value}", f"{parent}." if parent else "")


def check_hydra(hydra: DictConfig, master: DictConfig | None = None) -> None:
    """Refuses settings of Hydra that would have no effect, whether a file or the command line sets them.

    Args:
        hydra: Hydra's part of the configuration.
        master: that of the sweep, if `hydra` is of one of its jobs.
    """
    sweeper = hydra.runtime.choices["hydra/sweeper"]
    if sweeper != "basic":
        raise UserError(
            f"hydra/sweeper={sweeper}: expected basic, which runs all combinations of values; leave it out and list "
            "the values, as in -m algo.lr=1e-4,1e-3"
        )
    for name in ("params", "max_batch_size"):
        if (value := hydra.sweeper.get(name)) is not None:
            raise UserError(
                f"hydra.sweeper.{name}: expected nothing, got {value}; list values on the command line, as in "
                "-m seed=0,1,2"
            )
    folders = {"run.dir": ".", "sweep.dir": ".", "sweep.subdir": ".", "output_subdir": None, "job.chdir": False}
    for key, value in folders.items():
        if (actual := OmegaConf.select(hydra, key)) != value:
            raise UserError(f"hydra.{key}: expected {value}, got {actual}; set the folder of all runs by outputs=...")
    if master is None:
        if hydra.mode is not None and hydra.mode.name == "MULTIRUN":
            raise UserError("hydra.mode: expected RUN, got MULTIRUN in a file; add -m to the command line")
        if hydra.callbacks:
            raise UserError(
                f"hydra.callbacks: expected none without -m, got {', '.join(hydra.callbacks)}; only sweeps call them"
            )
    elif hydra.launcher != master.launcher:
        raise UserError(
            "hydra.launcher: expected on the command line, got settings in a file; write hydra/launcher=joblib"
        )
