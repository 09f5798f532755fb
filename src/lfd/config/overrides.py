"""Parses the overrides of a command line, quotes the paths in them and checks the options that they choose."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from lfd.config.renamed import check_renamed, new_group, new_name
from lfd.errors import UserError, suggest
from lfd.registry import BROKEN, PARTS, is_place

_FOLDER_SETTINGS = ("hydra.run.", "hydra.sweep.", "hydra.output_subdir", "hydra.job.chdir")


def parsed(overrides: Sequence[str], sweep: bool) -> list[Override]:
    """The overrides of a command line; with `sweep` each may have several values. Raises UserError."""
    parser = OverridesParser.create()
    by_key: dict[str, Override] = {}
    for line in overrides:
        try:
            override = parser.parse_override(literal(line, sweep))
        except HydraException as error:
            raise UserError(f"{line}: expected key=value, as in learn.steps=500") from error
        if not override.key_or_group:
            raise UserError(f"{line}: expected key=value, as in learn.steps=500, got no key")
        if override.is_delete() and not isinstance(override.value(), str | None):
            raise UserError(f"{line}: expected no value, as ~ removes a key; write ~{override.key_or_group}")
        if override.is_sweep_override() and not sweep:
            as_list = f"{line.partition('=')[0]}=[...]"
            raise UserError(
                f"{line}: expected one value, got several; add -m to run a job of each, or write {as_list} for a list"
            )
        key = override.get_key_element().lstrip("+~")
        if "@" in key and new_name([""], override.key_or_group):  # an option of a group of an earlier version
            check_renamed([override.key_or_group], str(override.value()), f"{override.key_or_group}=")
        if ("@" in key or "/" in key) and (message := new_group(key)):
            raise UserError(message)
        _check_hydra_setting(line, key, sweep)
        if key in by_key:
            raise UserError(f"{by_key[key].input_line} {line}: expected {key} once, got it twice; leave one out")
        by_key[key] = override
    return list(by_key.values())


def _check_hydra_setting(line: str, key: str, sweep: bool) -> None:
    """Refuses settings of Hydra that would have no effect."""
    if key.startswith(_FOLDER_SETTINGS):
        raise UserError(f"{line}: expected no folder of one run; set the folder of all runs by outputs=...")
    if key.startswith("hydra.") and not sweep:
        raise UserError(f"{line}: settings of Hydra are for sweeps; add -m, or leave it out")
    if key.startswith("hydra.sweeper.params"):
        # Hydra raises an error of its own for these.
        raise UserError(f"{line}: expected values on the command line; list them, as in -m seed=0,1,2")


_PATH = re.compile(r"(\+{0,2}(?:outputs|(?:\w+\.)*path)=)(.*)", re.DOTALL)
_QUOTED = re.compile(r"""\s*('([^'\\]|\\.)*'|"([^"\\]|\\.)*")\s*""", re.DOTALL)


def literal(line: str, sweep: bool) -> str:
    """The override with its path quoted, if its value is a path, as `,`, `=` and others have a meaning for Hydra.

    With `sweep`, commas separate several paths, unless a file of the whole name exists.
    """
    match = _PATH.fullmatch(line)
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
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + match[2].replace("'", "\\'"), path)
    return f"'{escaped}'"


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError):
        return False


def check_options(overrides: Iterable[Override], options_of: Callable[[str], Sequence[str]]) -> None:
    """Refuses the first option that its group does not have; Hydra accepts any option of an optional group."""
    for override in overrides:
        key, group, value = override.get_key_element(), override.key_or_group, override.value()
        options = [] if override.is_delete() or override.is_sweep_override() else options_of(group)
        if not options:
            continue
        if isinstance(value, dict) or (isinstance(value, list) and not override.is_add()):
            several = ",".join(map(str, value)) or options[0]
            raise UserError(f"{override.input_line}: expected one option; -m {key}={several} runs a job of each")
        for option in value if isinstance(value, list) else [value]:
            if (group, str(option)) in BROKEN:
                raise BROKEN[group, str(option)]
            if option not in options and not (group in PARTS and is_place(str(option))):
                check_renamed([group], str(option), f"{group}=")
                # null is not compared with the options, some of which resemble it
                word, typed = ("null", "") if option is None else (str(option), str(option))
                raise UserError(f"{key}={word}: {group} has no option {word!r}; {suggest(typed, options)}")
