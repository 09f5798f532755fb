import pytest

from lfd.errors import Refused
from lfd.schedule import schedule


def test_a_number_is_constant():
    made = schedule(0.3, "x")
    assert (made(0), made(10**6), made.constant) == (0.3, 0.3, True)


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.505), ("cosine", 0.505), ("exponential", 0.1)])
def test_shapes_start_and_end_where_they_say(shape, middle):
    made = schedule({"start": 1.0, "end": 0.01, "steps": 10, "shape": shape}, "x")
    assert made(0) == pytest.approx(1.0)
    assert made(5) == pytest.approx(middle)
    assert made(10) == made(99) == pytest.approx(0.01)


def test_a_warmup_rises_to_the_start():
    made = schedule({"start": 1.0, "end": 0.0, "steps": 4, "warmup": 3}, "lr")
    assert [made(step) for step in (0, 1, 2, 3, 5, 7, 99)] == [0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0]
    assert not schedule({"start": 1.0, "end": 1.0, "steps": 1, "warmup": 3}, "lr").constant


SPAN = {"start": 1, "end": 0, "steps": 5}
WRONG = ["0.1", None, True, {"start": 1}, SPAN | {"steps": 0}, SPAN | {"stop": 3}, SPAN | {"warmup": -1}]
WRONG += [SPAN | {"shape": "cubic"}, SPAN | {"shape": "exponential"}]


@pytest.mark.parametrize("value", WRONG)
def test_anything_else_is_refused_by_name(value):
    with pytest.raises(Refused, match="weight of bc"):
        schedule(value, "weight of bc")


def test_range():
    with pytest.raises(Refused, match=r"outside \[0, 1\]"):
        schedule({"start": 1.5, "end": 0.0, "steps": 3}, "epsilon", 0, 1)
