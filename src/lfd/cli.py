"""The command line: help, errors as sentences, exit codes."""

import os
import signal
import sys
import traceback
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NoReturn, final

from lfd.errors import Ending, Interrupted, Refused


def config_folder() -> Path:
    """conf/: inside the installed package, or beside src/ in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def main() -> None:
    """Entry point of `run.py` and of the console script `lfd`."""
    try:
        code = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, as `head` does, has gone: the interpreter's last flush must not fail on it again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        code = Interrupted.exit_code
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
    # Before the pipeline runs, with handlers of its own, SIGTERM ends as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        return _run()
    except Ending as ending:
        return _ended(ending, wants_traceback)
    except KeyboardInterrupt:
        return _ended(Interrupted("stopped"), wants_traceback)
    except BrokenPipeError:
        raise
    except Exception as fault:
        if wants_traceback:
            raise
        print(f"lfd: {_fault(fault)}", file=sys.stderr)
        return 1


def _ended(ending: Ending, wants_traceback: bool) -> int:
    if wants_traceback:
        traceback.print_exception(ending)
    again = "; the same command continues" if isinstance(ending, Interrupted) else ""
    print(f"lfd: {' '.join(str(ending).split())}{again}", file=sys.stderr)
    return ending.exit_code


def _fault(fault: Exception) -> str:
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

    register()
    try:
        if given.multirun:
            from lfd.sweep import run_sweep

            return run_sweep(given, config_folder(), CONFIG, _refuse)
        if given.cfg or given.info or given.hydra_help or given.shell_completion:
            _answer(CONFIG)
            return 0
        cfg = Composer(config_folder(), given.config_dir).compose(given.overrides)
    except Exception as error:
        _refuse(error, given)
    _single(cfg, given.overrides)
    return 0


def _answer(config: str) -> None:
    """Let Hydra answer a question about the configuration."""
    import hydra

    # Its own trap would print texts of its own and exit 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config)(lambda cfg: None)()


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
        if given.config_dir is not None and not given.config_dir.is_dir():
            raise Refused(f"--config-dir {given.config_dir}: there is no such folder")

        from lfd.refusals import parsed

        parsed(given.overrides, given.multirun)
        return given

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; `{self.prog} --help` lists the flags")


def _refuse(error: Exception, given: Namespace) -> NoReturn:
    """Raise what is wrong with the configuration as Refused, or the error itself if that is sound."""
    from lfd.composing import Composer
    from lfd.refusals import UNSOUND, Tree, parsed, sentence

    if isinstance(error, Ending):
        raise error
    try:
        Tree(Composer(config_folder(), given.config_dir), parsed(given.overrides, given.multirun)).check()
    except Refused as found:
        raise found from error
    except UNSOUND as other:
        # The trouble is in a file, not on the command line.
        raise sentence(error) or sentence(other) or error from error
    raise sentence(error) or error from error
