"""Predicts the duration of a stage from stored artifacts; runs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfd.store.artifacts import read_record


def expected_seconds(
    root: Path, kind: str, length_fields: tuple[str, ...], material: Mapping[str, Any], device: str
) -> float | None:
    """Seconds that a stage will take, scaled from the longest comparable artifact in the store `root`.

    An artifact is comparable if it differs in seeds, length and the content of inputs only, was made on the same
    `device`, and has a tenth of the stage's length or more; None if there is none. `material` is the content that the
    stage's key is computed from, `kind` the beginning of the key, `length_fields` the fields that set its length.
    """
    length, comparable = _length(material, length_fields), _comparable_content(material, length_fields)
    candidates: list[tuple[float, str, float]] = []  # (length, time of creation, predicted seconds)
    for folder in root.glob(f"{kind}-*"):
        record = read_record(folder)
        if (
            record is None
            or record["provenance"]["device"] != device
            or _comparable_content(record["material"], length_fields) != comparable
        ):
            continue
        stored_length = _length(record["material"], length_fields)
        # Scaling a much shorter stage would count its start-up time many times.
        if stored_length >= length / 10:
            seconds = record["summary"]["seconds"] * length / stored_length
            candidates.append((stored_length, record["created"], seconds))
    return max(candidates)[2] if candidates else None


def _length(material: Mapping[str, Any], length_fields: tuple[str, ...]) -> float:
    return max((float(material["stage"]["fields"][name]) for name in length_fields), default=1.0)


def _comparable_content(material: Mapping[str, Any], length_fields: tuple[str, ...]) -> str:
    """The material as JSON, without its seed, its length and the hashes in its inputs' keys."""
    stage = material["stage"]
    fields = {name: value for name, value in stage["fields"].items() if name not in (*length_fields, "seed")}
    text = json.dumps([stage["part"], stage["revision"], fields, material.get("env")], sort_keys=True)
    return re.sub(r"-[0-9a-f]{16}\b", "", text)
