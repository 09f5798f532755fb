"""States on disk that wait for somebody to say what should be done there.

A round's folder holds `visited/data.hdf5` (what was seen and done), `pictures/` where the environment gives them,
`request.json` (which round it is, how many states, what an action is) and, once there are some, `labels.json`:
{"round": 0, "request": "<as in request.json>", "labels": {"<number of the state>": <action>}}.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfd.data import Dataset
from lfd.errors import LabelsNeeded, Refused
from lfd.experts import as_action
from lfd.files import load_object, save_json
from lfd.terminal import agreed, ask, bounds, show, wanted

VISITED, PICTURES, REQUEST, LABELS = "visited/data.hdf5", "pictures", "request.json", "labels.json"
DATA = "data.hdf5"  # the round, once its labels were taken


def save_request(folder: Path, number: int, names: list[str]) -> None:
    """Ask for the labels of round `number`, whose states and pictures are in the folder; actions may have names."""
    visited = Dataset.open(folder / VISITED)
    request = {
        "round": number,
        "request": visited.passport["sha256"][:16],
        "states": len(visited),
        "action": wanted(visited.spaces.action),
        "names": names,
    }
    save_json(folder / REQUEST, request)


def save_picture(folder: Path, number: int, picture: NDArray[np.uint8]) -> None:
    """The picture [H, W, 3] of a state."""
    from PIL import Image

    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / PICTURES / f"{number:06d}.png")


def read_labels(folder: Path) -> dict[int, Any]:
    """State -> action of what has been labelled so far. Raises Refused for labels that were not asked for."""
    path = folder / LABELS
    if not path.exists():
        return {}
    request, given = load_object(folder / REQUEST), load_object(path, "round", "request", "labels")
    space = Dataset.open(folder / VISITED).spaces.action
    if given["round"] != request["round"]:
        raise Refused(f"{path} is of round {given['round']!r}, round {request['round']} is asked for; remove it")
    if given["request"] != request["request"]:
        raise Refused(f"{path} answers another request ({given['request']!r}, not {request['request']!r}); remove it")
    if not isinstance(given["labels"], dict):
        raise Refused(f"{path}: labels is no object; {{number of a state: action}} is expected")
    labels, asked = {}, {str(number) for number in range(request["states"])}
    for name, value in given["labels"].items():
        if name not in asked:
            raise Refused(f"{path}: state {name!r} was not asked for; there are {request['states']}, counted from 0")
        action = as_action(value, space)
        if action is None or not np.array_equal(action, np.clip(action, *bounds(space))):
            raise Refused(f"{path}: the label of state {name} is {value!r}; {request['action']} is expected")
        labels[int(name)] = action
    return labels


def all_labels(folder: Path) -> NDArray[Any]:
    """The actions of all states, in order. Raises LabelsNeeded while some are missing."""
    labels, asked = read_labels(folder), load_object(folder / REQUEST, "round", "states")
    if len(labels) < asked["states"]:
        raise LabelsNeeded(
            f"round {asked['round']} waits for {asked['states'] - len(labels)} of {asked['states']} labels; "
            f"`python scripts/label.py {folder}` asks for them, then the same command goes on"
        )
    return np.stack([labels[index] for index in range(len(labels))])


def label(folder: Path) -> int:
    """Show a person each state that has no label yet and keep the answers; returns how many were given.

    Backspace goes back to the state before. Raises Refused for a folder that asks for nothing, Interrupted when the
    person stops; every answer is kept at once.
    """
    folder = folder.resolve()  # `latest` may be another round tomorrow
    if not (folder / REQUEST).exists():
        raise Refused(f"{folder} has no {REQUEST}: the folder that a run has named is expected, …/demos/round-000")
    if (folder / DATA).exists():
        raise Refused(f"{folder}: the run has taken these labels; the round that waits now is the one to label")
    asked, labels = load_object(folder / REQUEST, "round", "request", "states", "names"), read_labels(folder)
    visited = Dataset.open(folder / VISITED)
    head = {"round": asked["round"], "request": asked["request"]}
    number, states, before = 0, asked["states"], len(labels)
    while number < states or not agreed(f"all {states} states have a label"):
        if number in labels:
            number += 1
            continue
        action = None
        if number < states:
            show(*_state(folder, visited, number))
            told = f"round {asked['round']}, state {number + 1} of {states}: "
            action = ask(visited.spaces.action, asked["names"], told)
        if action is None:
            number = max(number - 1, 0)
            labels.pop(number, None)
        else:
            labels[number] = action
        content = {str(index): np.asarray(labels[index]).tolist() for index in sorted(labels)}
        save_json(folder / LABELS, {**head, "labels": content})
    return len(labels) - before


def _state(folder: Path, visited: Dataset, number: int) -> tuple[Any, NDArray[np.uint8] | None]:
    """The observation and the picture, if there is one, of a state."""
    from PIL import Image

    seen = visited.observations(np.array([number]))
    first = {name: column[0] for name, column in seen.items()} if isinstance(seen, dict) else seen[0]
    path = folder / PICTURES / f"{number:06d}.png"
    return first, np.asarray(Image.open(path).convert("RGB")) if path.exists() else None
