"""How long a stage will take, as far as what is stored tells; nothing is tried, for a run is to start at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfd.artifacts import record_of


def expected_seconds(
    root: Path, kind: str, free: tuple[str, ...], material: Mapping[str, Any], device: str
) -> float | None:
    """Seconds by the longest stored artifact that differs in seeds, length and the content of inputs only.

    None if there is none in the store `root`, or only a far shorter one. `material` is what the stage's key is made
    of, `kind` what the key begins with, `free` names the fields that say how long the stage goes on.
    """
    length, likeness = _length(material, free), _likeness(material, free)
    found: list[tuple[float, str, float]] = []
    for folder in root.glob(f"{kind}-*"):
        record = record_of(folder)
        if (
            record is None
            or record["provenance"]["device"] != device
            or _likeness(record["material"], free) != likeness
        ):
            continue
        earlier = _length(record["material"], free)
        # What a stage takes to begin would count too often.
        if earlier >= length / 10:
            found.append((earlier, record["created"], record["summary"]["seconds"] * length / earlier))
    return max(found)[2] if found else None


def _length(material: Mapping[str, Any], free: tuple[str, ...]) -> float:
    return max((float(material["stage"]["fields"][name]) for name in free), default=1.0)


def _likeness(material: Mapping[str, Any], free: tuple[str, ...]) -> str:
    """The material without its seed, its length and the hashes in its inputs' keys."""
    stage = material["stage"]
    fields = {name: value for name, value in stage["fields"].items() if name not in (*free, "seed")}
    text = json.dumps([stage["part"], stage["revision"], fields, material.get("env")], sort_keys=True)
    return re.sub(r"-[0-9a-f]{16}\b", "", text)
