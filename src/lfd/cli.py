"""The command line: help, errors as sentences, exit codes."""

import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, final

from lfd.errors import Ending, Interrupted, Refused, ending_of
from lfd.interrupts import over, take, taken
from lfd.provenance import without_secrets

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # what --info can be asked
SHELL = tuple(f"{verb}={shell}" for verb in ("install", "uninstall", "query") for shell in ("bash", "fish", "zsh"))


def config_folder() -> Path:
    """conf/: inside the installed package, or beside src/ in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def main() -> None:
    """Entry point of `run.py` and of the console script `lfd`."""
    take()
    # For environments and scripts of the present folder, which an installed program does not look into by itself.
    sys.path.append(os.getcwd())
    try:
        code = run()
    except KeyboardInterrupt:
        code = Interrupted.exit_code  # while the end was being told
    except BrokenPipeError:
        # Whoever read the output, as `head` does, has gone: the interpreter's last flush must not fail on it again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        code = Interrupted.exit_code
    over(code)
    sys.exit(code)


def run() -> int:
    """Run the command line in sys.argv; returns the exit code."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        from lfd.help import page

        print(page(config_folder(), _program()))
        return 0
    if "--version" in arguments:
        from lfd import __version__

        print(f"lfd {__version__}")
        return 0
    with taken():
        try:
            code = _run()
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            return _ended(Interrupted("stopped"))
        except BrokenPipeError:
            raise
        except (Exception, SystemExit) as error:
            return _ended(error)


def _ended(error: BaseException) -> int:
    """Tell in one line how it ended; returns the exit code."""
    ending = ending_of(error)
    again = "; the same command continues" if isinstance(ending, Interrupted) else ""
    line = " ".join(str(ending).split()) + again if ending else _fault(error)
    with suppress(OSError):  # where nothing can be written, the exit code is all that can be told
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exception(error)
        # Words of a command line may hold bytes that are no text.
        shown = without_secrets(line).encode(errors="backslashreplace").decode()
        print(f"lfd: {shown}", file=sys.stderr)
    return ending.exit_code if ending else 1


def _fault(fault: BaseException) -> str:
    """A fault of ours in one line: what, where, and the way to the whole of it."""
    text = " ".join(str(fault).split())
    frame = traceback.extract_tb(fault.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"a fault of ours: {type(fault).__name__}: {text[:200]} ({where}); HYDRA_FULL_ERROR=1 shows the traceback"


def _program() -> str:
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name


def _run() -> int:
    given = _Flags(_program(), add_help=False).read(sys.argv[1:])

    from lfd.composing import CONFIG, Composer
    from lfd.experiment import register
    from lfd.refusals import check_hydra, check_options, parsed

    register()
    try:
        composer = Composer(config_folder(), given.config_dir)
        if given.cfg or given.info or given.hydra_help or given.shell_completion:
            _answer(CONFIG, composer, given)
            return 0
        if given.multirun:
            from lfd.sweep import run_sweep

            return run_sweep(given, config_folder(), CONFIG, _refuse)
        cfg = composer.compose(given.overrides)
        check_options(parsed(given.overrides, sweep=False), composer.options)
        check_hydra(cfg.hydra)
    except Exception as error:
        _refuse(error, given)
    _single(cfg, given.overrides)
    return 0


def _answer(config: str, composer: Any, given: Namespace) -> None:
    """Let Hydra answer a question about the configuration."""
    import hydra
    from omegaconf import OmegaConf

    if given.cfg and given.package and OmegaConf.select(composer.compose(given.overrides), given.package) is None:
        raise Refused(f"--package {given.package}: there is nothing at that key; leave it out to see all keys")
    # Its own trap would print texts of its own and exit 1; and it reads the line again, as it was typed.
    before = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *(given.quoted.get(word, word) for word in sys.argv[1:])]
    try:
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config)(lambda cfg: None)()
    except SystemExit as end:
        if end.code:
            raise Refused(f"Hydra answers nothing to this line; `{_program()} --help` lists the flags") from end
    finally:
        sys.argv = before[1]
        os.environ.pop("HYDRA_FULL_ERROR")
        if before[0] is not None:
            os.environ["HYDRA_FULL_ERROR"] = before[0]


def _single(cfg: Any, overrides: list[str]) -> None:
    """One experiment: its table, and last the path of its result."""
    from omegaconf import open_dict

    from lfd.experiment import build
    from lfd.report import table
    from lfd.run import RESULT, run_experiment

    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    experiment = build(cfg, choices, overrides)
    if experiment.dry_run:
        from lfd.plan import plan

        print(plan(experiment))
        return
    result = run_experiment(experiment)
    print(table(result))
    print(experiment.outputs / "runs" / result["run"] / RESULT)


@final
class _Flags(ArgumentParser):
    """Flags by Hydra's names; a wrong one is refused in a line."""

    def read(self, arguments: list[str]) -> Namespace:
        """The command line, with its overrides checked one by one."""
        self.add_argument("overrides", nargs="*")
        self.add_argument("--multirun", "-m", action="store_true")
        self.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
        self.add_argument("--resolve", action="store_true")
        self.add_argument("--package", "-p")
        self.add_argument("--info", "-i", nargs="?", const="all")
        self.add_argument("--config-dir", "-cd", type=Path)
        self.add_argument("--hydra-help", action="store_true")
        self.add_argument("--shell-completion", "-sc", action="store_true")
        given = self.parse_intermixed_args(arguments)
        self._check(given)

        from lfd.refusals import literal, parsed

        given.quoted = {line: literal(line, given.multirun) for line in given.overrides}
        given.overrides = list(given.quoted.values())
        parsed(given.overrides, given.multirun)
        return given

    def _check(self, given: Namespace) -> None:
        """Refuse flags that would do nothing."""
        if given.config_dir is not None and not given.config_dir.is_dir():
            raise Refused(f"--config-dir {given.config_dir}: there is no such folder")
        if given.package is not None and not given.cfg:
            raise Refused(f"--package {given.package}: it is for --cfg, which prints that part; leave it out")
        if given.resolve and not given.cfg:
            raise Refused("--resolve: it is for --cfg, which prints with interpolations resolved; leave it out")
        if given.info is not None and given.info not in INFO:
            raise Refused(f"--info {given.info}: expected one of {', '.join(INFO)}; or nothing, for all")
        asked = [name for name in ("cfg", "info", "hydra_help", "shell_completion") if getattr(given, name)]
        if len(asked) > 1 or (asked and given.multirun):
            other = "-m" if given.multirun else f"--{asked[1].replace('_', '-')}"
            raise Refused(f"--{asked[0].replace('_', '-')} {other}: only one of them is expected; leave the other out")
        if given.shell_completion and not any(line.startswith(SHELL) for line in given.overrides):
            raise Refused("--shell-completion: expected install=bash, uninstall=bash or query=bash behind it, or fish")

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; `{self.prog} --help` lists the flags")


def _refuse(error: BaseException, given: Namespace) -> NoReturn:
    """Raise what is wrong with the configuration as Refused, or the error itself if that is sound."""
    from lfd.composing import Composer
    from lfd.refusals import UNSOUND, Tree, parsed, sentence

    if isinstance(error, Ending):
        raise error
    composer = Composer(config_folder(), given.config_dir)
    try:
        Tree(composer, parsed(given.overrides, given.multirun)).check()
    except Refused as found:
        raise found from error
    except UNSOUND as other:
        # The trouble is in a file, not on the command line.
        raise sentence(error, composer) or sentence(other, composer) or error from error
    raise sentence(error, composer) or error from error
