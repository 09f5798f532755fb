import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from lfd.envs import Spaces
from lfd.envs.spaces import flatten, simplified
from lfd.errors import Refused

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
def test_json_gives_the_same_spaces(observation: gym.Space[Any], action: gym.Space[Any]) -> None:
    made = simplified(observation, action, "x")
    text = json.dumps(made.to_json(), allow_nan=False)
    assert Spaces.from_json(json.loads(text)) == made
    assert len(text) < 600


def test_forms() -> None:
    made = simplified(spaces.Dict({"a.b": VECTOR, "c": spaces.Dict(d=TWO)}), spaces.Box(-1, 1, (), np.float64), "x")
    assert list(made.observation.spaces) == ["a_b", "c_d"]  # type: ignore[attr-defined]
    assert made.observation["a_b"].dtype == np.float32  # type: ignore[index]
    assert made.action.shape == (1,) and made.actions == "continuous"
    assert flatten({"a.b": 1, "c": {"d": 2}}) == {"a_b": 1, "c_d": 2}
    assert simplified(VECTOR, TWO, "x").actions == "discrete"


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
        (spaces.Dict(a=spaces.Dict(b=spaces.Text(5))), TWO, "'a.b' is a Text"),
        (spaces.Dict({"a.b": TWO, "a_b": TWO}), TWO, "called the same"),
    ],
)
def test_refused_in_one_line(observation: gym.Space[Any], action: gym.Space[Any], words: str) -> None:
    with pytest.raises(Refused, match=words) as refusal:
        simplified(observation, action, "Foo-v0")
    assert str(refusal.value).startswith("Foo-v0") and "\n" not in str(refusal.value)


@pytest.mark.parametrize("damaged", [{}, {"observation": 3, "action": {}}, {"observation": {}, "action": {"box": [1]}}])
def test_damaged_json_is_refused(damaged: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="damaged"):
        Spaces.from_json(damaged)
