"""Spaces: their simplified forms, their JSON, and the spaces that are refused."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from lfd.envs import Spaces
from lfd.envs.spaces import Cells, Indices, Words, flatten_observation, refuse_other_words, simplify_spaces
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
        spaces.Dict(image=Cells((7, 7), (11, 6, 4)), mission=Words(("go", "to"), 5)),
        spaces.Tuple([TWO, spaces.Tuple([VECTOR]), spaces.MultiDiscrete([3, 4])]),
        spaces.MultiDiscrete([[3, 4], [2, 9]]),
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
    assert flatten_observation({"a.b": 1, "c": {"d": 2}}) == {"a_b": 1, "c_d": 2}
    assert simplify_spaces(VECTOR, TWO, "x").actions == "discrete"


def test_simplify_spaces_tuple_is_a_dict_of_its_indices() -> None:
    simplified = simplify_spaces(spaces.Tuple([TWO, spaces.Dict(a=spaces.Tuple([VECTOR]))]), TWO, "x").observation
    assert isinstance(simplified, spaces.Dict) and list(simplified) == ["0", "1_a_0"]
    # the numbers of a Box may be a tuple, too
    assert flatten_observation((1, {"a": ((2, 3, 4),)}), simplified.spaces) == {"0": 1, "1_a_0": (2, 3, 4)}


def test_indices_have_the_values_of_a_multi_discrete() -> None:
    space = spaces.MultiDiscrete([3, 4], seed=0)
    indices = simplify_spaces(space, TWO, "x").observation
    assert indices == Indices([3, 4]) != Indices([3, 5]) and indices != spaces.Box(0, np.array([2, 3]), dtype=np.int64)
    assert all(indices.contains(space.sample()) for _ in range(20))
    assert not indices.contains(np.array([0, 4])) and not indices.contains(np.array([-1, 0]))


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (VECTOR, spaces.MultiDiscrete([2, 2]), "MultiDiscrete"),
        (VECTOR, spaces.MultiBinary(2), "MultiBinary"),
        (VECTOR, spaces.Tuple([TWO]), "Tuple"),
        (VECTOR, spaces.Discrete(3, start=1), "start=1"),
        (VECTOR, spaces.Box(0, 5, (2,), np.int64), "Box"),
        (spaces.Tuple([TWO, spaces.Text(5)]), TWO, "observation '1': .*got Text"),
        (spaces.MultiDiscrete([2, 2], start=[0, 1]), TWO, "got MultiDiscrete.*start"),
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


def test_cells_differ_from_a_picture_of_the_same_numbers() -> None:
    cells = Cells((7, 7), (11, 6, 4))
    picture = spaces.Box(cells.low, cells.high, dtype=np.uint8)
    assert cells != picture and picture != cells
    assert cells == Cells((7, 7), [11, 6, 4]) != Cells((7, 7), (11, 6, 3))
    simplified = simplify_spaces(spaces.Dict(image=cells), TWO, "x").observation
    assert isinstance(simplified["image"], Cells)  # type: ignore[index]


def test_words_encode_and_decode() -> None:
    words = Words(("go", "to", "ball"), 6)
    ids = words.encode("Go to the BALL, ball")
    assert ids.dtype == np.uint8 and ids.tolist() == [1, 2, 4, 3, 3, 0] and words.contains(ids)
    assert words.decode(ids) == "go to ? ball ball"


def test_refuse_other_words_names_what_differs() -> None:
    one, other = (spaces.Dict(mission=Words(words, 5)) for words in (("go", "to"), ("go", "ball")))
    refuse_other_words("x", one, spaces.Dict(mission=Words(("go", "to"), 9)), "make it again")
    with pytest.raises(UserError, match=r"x: mission: .* 2 words, .* \(different: ball, to\); make it again"):
        refuse_other_words("x", one, other, "make it again")
    swapped = spaces.Dict(mission=Words(("to", "go"), 5))
    with pytest.raises(UserError, match="different: their order"):
        refuse_other_words("x", one, swapped, "make it again")
