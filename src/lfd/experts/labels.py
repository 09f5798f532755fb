"""Labels of an offline annotator: states wait on disk for the actions to take in them.

A round's folder holds `visited/data.hdf5` (observations and the actions of the policy), `pictures/` if the environment
can be drawn, `request.json` (round, number of states, form of an action) and, once a state has a label, `labels.json`:
{"round": 0, "request": "<as in request.json>", "labels": {"<number of the state>": <action>}}.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfd.data import Dataset
from lfd.errors import LabelsNeeded, UserError
from lfd.experts.experts import parse_action
from lfd.experts.terminal import action_bounds, ask_action, confirm, describe_action, show_state
from lfd.files import load_json_object, save_json

VISITED, PICTURES, REQUEST, LABELS = "visited/data.hdf5", "pictures", "request.json", "labels.json"
ROUND_DATA = "data.hdf5"  # the labeled dataset of the round, written once all labels were read


def save_request(folder: Path, number: int, names: list[str]) -> None:
    """Writes request.json for round `number`, whose states and pictures are in the folder.

    `names` are those of discrete actions; empty if they have none.
    """
    visited = Dataset.open(folder / VISITED)
    request = {
        "round": number,
        "request": visited.metadata["sha256"][:16],
        "states": len(visited),
        "action": describe_action(visited.spaces.action),
        "names": names,
    }
    save_json(folder / REQUEST, request)


def save_picture(folder: Path, number: int, picture: NDArray[np.uint8]) -> None:
    """Saves the picture [H, W, 3] uint8 of state `number`."""
    from PIL import Image

    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / PICTURES / f"{number:06d}.png")


def read_labels(folder: Path) -> dict[int, Any]:
    """The labels so far: state number -> action. Raises UserError for labels that do not fit the request."""
    path = folder / LABELS
    if not path.exists():
        return {}
    request, content = load_json_object(folder / REQUEST), load_json_object(path, "round", "request", "labels")
    space = Dataset.open(folder / VISITED).spaces.action
    for key in ("round", "request"):
        if content[key] != request[key]:
            raise UserError(f"{path}: {key}: expected {request[key]!r}, got {content[key]!r}; remove the file")
    if not isinstance(content["labels"], dict):
        raise UserError(f"{path}: labels: expected {{number of a state: action}}, got {content['labels']!r}")
    labels, names = {}, {str(number) for number in range(request["states"])}
    for name, value in content["labels"].items():
        if name not in names:
            raise UserError(f"{path}: labels: expected states from 0 to {request['states'] - 1}, got {name!r}")
        action = parse_action(value, space)
        if action is None or not np.array_equal(action, np.clip(action, *action_bounds(space))):
            raise UserError(f"{path}: label of state {name}: expected {request['action']}, got {value!r}")
        labels[int(name)] = action
    return labels


def read_all_labels(folder: Path) -> NDArray[Any]:
    """The actions of all states in order, [N] or [N, A]. Raises LabelsNeeded while labels are missing."""
    labels, request = read_labels(folder), load_json_object(folder / REQUEST, "round", "states")
    if len(labels) < request["states"]:
        raise LabelsNeeded(
            f"round {request['round']} waits for {request['states'] - len(labels)} of {request['states']} labels; "
            f"label them with `python scripts/label.py {folder}`, then repeat the command"
        )
    return np.stack([labels[index] for index in range(len(labels))])


def label_states(folder: Path) -> int:
    """Shows a person each state without a label and saves every answer at once; returns the number of new labels.

    Backspace goes back to the previous state. Raises UserError for a folder without a request, Interrupted when the
    person stops.
    """
    folder = folder.resolve()  # the link `latest` may name another round later
    if not (folder / REQUEST).exists():
        raise UserError(f"{folder}: expected the folder of a round, …/demos/round-000, got one without {REQUEST}")
    if (folder / ROUND_DATA).exists():
        raise UserError(f"{folder}: the run has read these labels already; label the round that waits now")
    request, labels = load_json_object(folder / REQUEST, "round", "request", "states", "names"), read_labels(folder)
    visited = Dataset.open(folder / VISITED)
    header = {"round": request["round"], "request": request["request"]}
    number, states, num_before = 0, request["states"], len(labels)
    while number < states or not confirm(f"all {states} states have a label"):
        if number in labels:
            number += 1
            continue
        action = None
        if number < states:
            show_state(*_load_state(folder, visited, number))
            prefix = f"round {request['round']}, state {number + 1} of {states}: "
            action = ask_action(visited.spaces.action, request["names"], prefix)
        if action is None:
            number = max(number - 1, 0)
            labels.pop(number, None)
        else:
            labels[number] = action
        content = {str(index): np.asarray(labels[index]).tolist() for index in sorted(labels)}
        save_json(folder / LABELS, {**header, "labels": content})
    return len(labels) - num_before


def _load_state(folder: Path, visited: Dataset, number: int) -> tuple[Any, NDArray[np.uint8] | None]:
    """The observation of a state and its picture [H, W, 3], or None without a picture."""
    from PIL import Image

    columns = visited.observations(np.array([number]))
    obs = {name: column[0] for name, column in columns.items()} if isinstance(columns, dict) else columns[0]
    path = folder / PICTURES / f"{number:06d}.png"
    return obs, np.asarray(Image.open(path).convert("RGB")) if path.exists() else None
