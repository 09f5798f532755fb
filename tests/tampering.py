"""Stored runs as somebody may have damaged or changed them."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

WILD: list[Any] = [None, -1, 0, 10**9, 2**70, 1.5, float("nan"), "", "../../etc", "nan", [], {}, [[]], {"a": []}, True]


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in a JSON tree."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in _nodes(part, (*path, key)))]


def _changed(content: Any, rng: random.Random) -> Any:
    """With one value replaced, or one key taken away."""
    *path, last = rng.choice([place for place in _nodes(content) if place] or [("",)])
    parent = content
    for key in path:
        parent = parent[key]
    if isinstance(parent, dict) and rng.random() < 0.3:
        parent.pop(last, None)
    else:
        parent[last] = rng.choice(WILD)
    return content


def tampered(whole: Path, to: Path, run: str, seed: int) -> Path:
    """A copy of outputs/ with one file of its run or artifact changed; returns the run's folder."""
    rng = random.Random(seed)
    shutil.copytree(whole, to)
    folder = to / "runs" / run
    (artifact,) = (to / "artifacts").glob("fit-*")
    stored = [artifact / name for name in ("artifact.json", "agent.json", "agent.json", "agent.safetensors")]
    path = rng.choice([folder / "result.json", *stored])
    content = path.read_bytes()
    match rng.randrange(5 if path.suffix == ".json" else 3):
        case 0:
            path.write_bytes(content[: rng.randrange(len(content))])
        case 1:
            at = rng.randrange(len(content))
            path.write_bytes(content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :])
        case 2:
            path.unlink()
        case _:
            path.write_text(json.dumps(_changed(json.loads(content), rng)))
    if path.parent == artifact and path.name != "artifact.json" and path.exists():
        # Whoever changes it on purpose keeps the sizes right.
        record = json.loads((artifact / "artifact.json").read_text())
        record["files"][path.name] = path.stat().st_size
        (artifact / "artifact.json").write_text(json.dumps(record))
    return folder
