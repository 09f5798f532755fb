"""The command line: help, errors as sentences, exit codes."""

import os
import signal
import sys
import traceback
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NoReturn, final

from lfd.errors import Ending, Interrupted, Refused

CONFIG = "config"  # the primary configuration in conf/


def config_folder() -> Path:
    """conf/: inside the installed package, or beside src/ in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def main() -> None:
    """Entry point of `run.py` and of the console script `lfd`."""
    sys.exit(run())


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
    # Hydra's own trap would print its own texts and exit 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra

    from lfd.experiment import register

    given = _parsed(sys.argv[1:])
    register()
    failed: list[Exception] = []

    def job(cfg: Any) -> None:
        # Hydra writes lines of its own about a job that raises.
        try:
            _single(cfg)
        except Exception as error:
            failed.append(error)

    try:
        if given.multirun:
            from lfd.sweep import run_sweep

            return run_sweep(given, config_folder(), CONFIG, _refuse)
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=CONFIG)(job)()
    except Exception as error:
        _refuse(error, given)
    if failed:
        raise failed[0]
    return 0


def _single(cfg: Any) -> None:
    """One experiment: its table, and last the path of its result."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from lfd.experiment import build
    from lfd.report import table
    from lfd.run import run_experiment

    settings = HydraConfig.get()
    # As they were typed: an interpolation in one belongs to the configuration, not to this list.
    overrides: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)
    experiment = build(cfg, settings.runtime.choices, overrides)
    if experiment.dry_run:
        from lfd.plan import plan

        print(plan(experiment))
        return
    result = run_experiment(experiment)
    print(table(result))
    print(experiment.outputs / "runs" / result["run"] / "result.json")


@final
class _Flags:
    """Hydra's flags; a wrong one is refused in a line."""

    def __init__(self) -> None:
        from hydra._internal.utils import get_args_parser

        self._parser: ArgumentParser = get_args_parser()
        self._parser.error = self._refuse  # type: ignore[method-assign]

    def parse(self, arguments: list[str]) -> Namespace:
        return self._parser.parse_args(arguments)

    @staticmethod
    def _refuse(message: str) -> NoReturn:
        raise Refused(f"{message}; `{_program()} --help` lists the flags")


def _parsed(arguments: list[str]) -> Namespace:
    """The command line; refused where it cannot be read."""
    from lfd.refusals import parsed

    given = _Flags().parse(arguments)
    parsed(given.overrides, given.multirun)
    return given


def _refuse(error: Exception, given: Namespace) -> NoReturn:
    """Raise what is wrong with the configuration as Refused, or the error itself if that is sound."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    from lfd.refusals import Tree, parsed, sentence

    folders = create_config_search_path(str(config_folder()))
    if given.config_dir is not None:
        folders.prepend("command-line", f"file://{Path(given.config_dir).absolute()}")
    try:
        Tree(ConfigLoaderImpl(folders), CONFIG, parsed(given.overrides, given.multirun)).check()
    except Refused as found:
        raise found from error
    except Exception as other:
        # The trouble is in a file, not on the command line.
        raise sentence(error) or sentence(other) or error from error
    raise sentence(error) or error from error
