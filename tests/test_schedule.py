"""Schedules: their shapes, warmup, and the values that are refused."""

import pytest

from lfd.errors import UserError
from lfd.schedule import parse_schedule


def test_schedule_of_a_number_is_constant():
    parsed = parse_schedule(0.3, "x")
    assert (parsed(0), parsed(10**6), parsed.is_constant) == (0.3, 0.3, True)


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.505), ("cosine", 0.505), ("exponential", 0.1)])
def test_schedule_starts_and_ends_at_its_values(shape, middle):
    schedule = parse_schedule({"start": 1.0, "end": 0.01, "over": 10, "shape": shape}, "x")
    assert schedule(0) == pytest.approx(1.0)
    assert schedule(5) == pytest.approx(middle)
    assert schedule(10) == schedule(99) == pytest.approx(0.01)


def test_warmup_rises_to_the_start():
    schedule = parse_schedule({"start": 1.0, "end": 0.0, "over": 4, "warmup": 3}, "lr")
    assert [schedule(step) for step in (0, 1, 2, 3, 5, 7, 99)] == [0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0]
    assert not parse_schedule({"start": 1.0, "end": 1.0, "over": 1, "warmup": 3}, "lr").is_constant


SPAN = {"start": 1, "end": 0, "over": 5}
WRONG = ["0.1", None, True, {"start": 1}, SPAN | {"over": 0}, SPAN | {"stop": 3}, SPAN | {"warmup": -1}]
WRONG += [SPAN | {"shape": "cubic"}, SPAN | {"shape": "exponential"}]


@pytest.mark.parametrize("value", WRONG)
def test_schedule_of_a_wrong_value_is_refused_with_its_name(value):
    with pytest.raises(UserError, match="^weight of bc: expected .*, got "):
        parse_schedule(value, "weight of bc")


def test_schedule_outside_its_range_is_refused():
    with pytest.raises(UserError, match=r"^epsilon: expected a value in \[0, 1\], got 1.5"):
        parse_schedule({"start": 1.5, "end": 0.0, "over": 3}, "epsilon", 0, 1)
