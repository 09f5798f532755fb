"""Spaces: their simplified forms, their JSON, and the spaces that are refused."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from lfd.envs import Spaces
from lfd.envs.spaces import flatten_dict, simplify_spaces
from lfd.errors import UserError

TWO = spaces.Discrete(2)
VECTOR = spaces.Box(-np.inf, np.array([1, np.inf, 0.1]), (3,), np.float64)


@pytest.mark.parametrize(
    "observation",
    [
        VECTOR,
        TWO,
        spaces.Box(0, 255, (4, 84, 84), np.uint8),
        spaces.Box(0, 9, (), np.int64),
        spaces.Dict(a=VECTOR, b=spaces.Dict(c=TWO)),
    ],
)
@pytest.mark.parametrize("action", [TWO, spaces.Box(-1, 1, (2, 2), np.float64)])
def test_spaces_from_their_json_are_equal(observation: gym.Space[Any], action: gym.Space[Any]) -> None:
    simplified = simplify_spaces(observation, action, "x")
    text = json.dumps(simplified.to_json(), allow_nan=False)
    assert Spaces.from_json(json.loads(text)) == simplified
    assert len(text) < 600


def test_simplify_spaces_flattens_dicts_and_casts_floats() -> None:
    simplified = simplify_spaces(
        spaces.Dict({"a.b": VECTOR, "c": spaces.Dict(d=TWO)}), spaces.Box(-1, 1, (), np.float64), "x"
    )
    assert list(simplified.observation.spaces) == ["a_b", "c_d"]  # type: ignore[attr-defined]
    assert simplified.observation["a_b"].dtype == np.float32  # type: ignore[index]
    assert simplified.action.shape == (1,) and simplified.actions == "continuous"
    assert flatten_dict({"a.b": 1, "c": {"d": 2}}) == {"a_b": 1, "c_d": 2}
    assert simplify_spaces(VECTOR, TWO, "x").actions == "discrete"


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (VECTOR, spaces.MultiDiscrete([2, 2]), "MultiDiscrete"),
        (VECTOR, spaces.MultiBinary(2), "MultiBinary"),
        (VECTOR, spaces.Tuple([TWO]), "Tuple"),
        (VECTOR, spaces.Discrete(3, start=1), "start=1"),
        (VECTOR, spaces.Box(0, 5, (2,), np.int64), "Box"),
        (spaces.Tuple([TWO]), TWO, "Tuple"),
        (spaces.Graph(VECTOR, None), TWO, "Graph"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Text(5))), TWO, "observation 'a.b': .*got Text"),
        (spaces.Dict({"a.b": TWO, "a_b": TWO}), TWO, "expected observations of different names"),
    ],
)
def test_simplify_spaces_unsupported_space_is_refused_in_one_line(
    observation: gym.Space[Any], action: gym.Space[Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        simplify_spaces(observation, action, "Foo-v0")
    assert str(refusal.value).startswith("Foo-v0") and "\n" not in str(refusal.value)


@pytest.mark.parametrize("damaged", [{}, {"observation": 3, "action": {}}, {"observation": {}, "action": {"box": [1]}}])
def test_spaces_from_damaged_json_is_refused(damaged: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="damaged"):
        Spaces.from_json(damaged)
