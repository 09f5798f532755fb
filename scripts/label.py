"""Label the states that a run waits for: python scripts/label.py outputs/artifacts/.building/fit-…/demos/round-000"""

import argparse
import sys
from pathlib import Path

from lfd.errors import Ending
from lfd.labels import label


def main() -> int:
    parser = argparse.ArgumentParser(description="Show each state that waits for a label and take a key for it.")
    parser.add_argument("folder", type=Path, help="the folder that the run has named, …/demos/round-000")
    try:
        given = label(parser.parse_args().folder)
    except Ending as ending:
        print(f"\nlabel: {ending}", file=sys.stderr)
        return ending.exit_code
    print(f"{given} labels given, none is missing; the command that asked for them goes on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
