"""Labels the states of a waiting run: python scripts/label.py outputs/artifacts/.building/fit-…/demos/round-000"""

import argparse
import sys
from pathlib import Path

from lfd.errors import RunError
from lfd.experts.labels import label_states


def main() -> int:
    parser = argparse.ArgumentParser(description="Shows each state without a label and reads its label from a key.")
    parser.add_argument("folder", type=Path, help="the folder that the run has printed, …/demos/round-000")
    try:
        count = label_states(parser.parse_args().folder)
    except RunError as ending:
        print(f"\nlabel: {ending}", file=sys.stderr)
        return ending.exit_code
    print(f"{count} labels stored, none is missing; repeat the run's command to continue it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
