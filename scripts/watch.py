"""Films the policy of a finished run: python scripts/watch.py outputs/runs/cql-cartpole-s0-66f0c45e"""

import argparse
import sys
from pathlib import Path

import lfd
from lfd.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description="Films the policy of a finished run as a GIF.")
    parser.add_argument("run", type=Path, help="a run folder, outputs/runs/…, or a fit artifact's folder")
    parser.add_argument("--stage", default="learn", help="the stage that trained the policy (default: learn)")
    parser.add_argument("--episodes", type=int, default=1, help="number of episodes (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the start states (default: 0)")
    parser.add_argument("--fps", type=float, help="frames per second (default: 30, of MiniGrid 3)")
    parser.add_argument("--out", type=Path, help="path of the GIF (default: film.gif in the run folder)")
    options = parser.parse_args()
    try:
        if options.episodes < 1:
            raise UserError(f"--episodes: expected 1 or more, got {options.episodes}; choose a larger number")
        if options.fps is not None and options.fps <= 0:
            raise UserError(f"--fps: expected more than 0, got {options.fps:g}; choose a larger number")
        path = options.out or options.run / "film.gif"
        score = lfd.load(options.run, options.stage).film(path, options.episodes, options.seed, options.fps)
    except UserError as refusal:
        print(f"watch: {refusal}", file=sys.stderr)
        return refusal.exit_code
    print(f"mean return {score:.1f} over {options.episodes} episodes")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
