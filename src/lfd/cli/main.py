"""The command line: flags, help, one-line errors and exit codes."""

import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, final

from lfd.config.folder import config_folder
from lfd.errors import Interrupted, UserError, to_run_error
from lfd.interrupts import handlers_installed, install_handlers, set_final_exit_code
from lfd.store.provenance import without_secrets

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # arguments of --info
COMPLETIONS = tuple(
    f"{verb}={shell}" for verb in ("install", "uninstall", "query") for shell in ("bash", "fish", "zsh")
)


def main() -> None:
    """Entry point of `run.py` and of the console script `lfd`."""
    install_handlers()
    # An installed program does not find the environments and scripts of the current folder by itself.
    sys.path.append(os.getcwd())
    try:
        code = run()
    except KeyboardInterrupt:
        code = Interrupted.exit_code  # Ctrl-C while the message was printed
    except BrokenPipeError:
        # The reader of the output, such as `head`, has ended; the last flush of the interpreter must not fail on it.
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(null, stream.fileno())
        code = Interrupted.exit_code
    set_final_exit_code(code)
    sys.exit(code)


def run() -> int:
    """Runs the command line in sys.argv; returns the exit code."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        from lfd.cli.help import page

        print(page(config_folder(), _program()))
        return 0
    if "--version" in arguments:
        from lfd import __version__

        print(f"lfd {__version__}")
        return 0
    with handlers_installed():
        try:
            code = _run()
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            return _report_error(Interrupted("stopped"))
        except BrokenPipeError:
            raise
        except (Exception, SystemExit) as error:
            return _report_error(error)


def _report_error(error: BaseException) -> int:
    """Prints an error in one line; returns the exit code."""
    run_error = to_run_error(error)
    hint = "; the same command continues" if isinstance(run_error, Interrupted) else ""
    line = " ".join(str(run_error).split()) + hint if run_error else _internal_error(error)
    with suppress(OSError):  # stderr may be closed or full; the exit code remains
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exception(error)
        # A command line may contain bytes that are no text.
        printable = without_secrets(line).encode(errors="backslashreplace").decode()
        print(f"lfd: {printable}", file=sys.stderr)
    return run_error.exit_code if run_error else 1


def _internal_error(error: BaseException) -> str:
    """The line for an internal error, with its place in the code."""
    text = " ".join(str(error).split())
    frame = traceback.extract_tb(error.__traceback__)[-1]
    location = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"internal error: {type(error).__name__}: {text[:200]} ({location}); HYDRA_FULL_ERROR=1 shows the traceback"


def _program() -> str:
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name


def _run() -> int:
    arguments = _ArgumentParser(_program(), add_help=False).read(sys.argv[1:])

    from lfd.config.composer import Composer

    composer = Composer(arguments.config_dir)
    if arguments.cfg or arguments.info or arguments.hydra_help or arguments.shell_completion:
        composer.answer(arguments, _program())
        return 0
    if arguments.multirun:
        from lfd.cli.sweep import run_sweep

        return run_sweep(arguments.overrides, composer)
    experiment = composer.experiment(arguments.overrides)
    if experiment.dry_run:
        from lfd.runs.dry_run import plan

        print(plan(experiment))
        return 0
    from lfd.report import result_table
    from lfd.runs.run import RESULT, run_experiment

    result = run_experiment(experiment)
    print(result_table(result))
    print(experiment.outputs.runs / result["run"] / RESULT)
    return 0


@final
class _ArgumentParser(ArgumentParser):
    """Parses flags, which have Hydra's names. Raises UserError for wrong ones."""

    def read(self, words: list[str]) -> Namespace:
        """The overrides and flags of a command line."""
        self.add_argument("overrides", nargs="*")
        self.add_argument("--multirun", "-m", action="store_true")
        self.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
        self.add_argument("--resolve", action="store_true")
        self.add_argument("--package", "-p")
        self.add_argument("--info", "-i", nargs="?", const="all")
        self.add_argument("--config-dir", "-cd", type=Path)
        self.add_argument("--hydra-help", action="store_true")
        self.add_argument("--shell-completion", "-sc", action="store_true")
        arguments = self.parse_intermixed_args(words)
        self._check(arguments)
        return arguments

    def _check(self, arguments: Namespace) -> None:
        """Refuses flags that would have no effect."""
        if arguments.package is not None and not arguments.cfg:
            raise UserError(f"--package {arguments.package}: expected together with --cfg; leave it out")
        if arguments.resolve and not arguments.cfg:
            raise UserError("--resolve: expected together with --cfg; leave it out")
        if arguments.info is not None and arguments.info not in INFO:
            raise UserError(f"--info {arguments.info}: expected one of {', '.join(INFO)}; leave it out for all")
        questions = [name for name in ("cfg", "info", "hydra_help", "shell_completion") if getattr(arguments, name)]
        if len(questions) > 1 or (questions and arguments.multirun):
            other = "-m" if arguments.multirun else f"--{questions[1].replace('_', '-')}"
            raise UserError(
                f"--{questions[0].replace('_', '-')} {other}: expected only one of them; leave the other out"
            )
        if arguments.shell_completion and not any(line.startswith(COMPLETIONS) for line in arguments.overrides):
            raise UserError(
                "--shell-completion: expected install=, uninstall= or query= and bash, fish or zsh after it"
            )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists the flags")
