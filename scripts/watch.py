"""Film the policy of a finished run: python scripts/watch.py outputs/runs/cql-cartpole-s0-66f0c45e"""

import argparse
import sys
from pathlib import Path

import lfd
from lfd.errors import Refused


def main() -> int:
    parser = argparse.ArgumentParser(description="Film the policy of a finished run as a GIF.")
    parser.add_argument("run", type=Path, help="a run folder, outputs/runs/…, or a fit artifact's folder")
    parser.add_argument("--stage", default="learn", help="whose policy (default: learn)")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the start states")
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--out", type=Path, help="where to write (default: film.gif in the run folder)")
    chosen = parser.parse_args()
    try:
        if chosen.episodes < 1 or chosen.fps <= 0:
            raise Refused("--episodes is 1 or more and --fps above 0")
        path = chosen.out or chosen.run / "film.gif"
        score = lfd.load(chosen.run, chosen.stage).film(path, chosen.episodes, chosen.seed, chosen.fps)
    except Refused as refusal:
        print(f"watch: {refusal}", file=sys.stderr)
        return refusal.exit_code
    print(f"mean return {score:.1f} over {chosen.episodes} episodes")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
