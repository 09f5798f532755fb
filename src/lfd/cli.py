"""The command line: help, errors as sentences, exit codes."""

import os
import sys
from pathlib import Path
from typing import Any


def config_folder() -> Path:
    """conf/: inside the installed package, or beside src/ in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def main() -> None:
    """Entry point of `run.py` and of the console script `lfd`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra's own trap would print its own texts and exit 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra

    from lfd.errors import Ending
    from lfd.experiment import register

    register()
    outcome: list[int] = []

    def job(cfg: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        from lfd.experiment import build
        from lfd.run import run_experiment

        settings = HydraConfig.get()
        experiment = build(cfg, settings.runtime.choices, list(settings.overrides.task))
        run_experiment(experiment)
        outcome.append(0)

    try:
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(job)()
    except Ending as ending:
        if wants_traceback:
            raise
        print(f"lfd: {ending}", file=sys.stderr)
        return ending.exit_code
    return 0
