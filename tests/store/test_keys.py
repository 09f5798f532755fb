"""Keys of artifacts: equal content gives equal keys, whatever files and classes are called."""

from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lfd.errors import UserError
from lfd.store.keys import describe, key_of


class Mode(Enum):
    FAST = 1
    SLOW = 2


@dataclass
class Part:
    weight: float = 1.0
    steps: int = 10


@dataclass
class Other:
    weight: float = 1.0
    steps: int = 10


@dataclass
class Whole:
    parts: dict[str, Part] = field(default_factory=lambda: {"a": Part(), "b": Part(weight=2.0)})
    mode: Mode = Mode.FAST
    rates: list[float] = field(default_factory=lambda: [1.0, 0.5])
    stop: float | None = None
    either: int | float = 1
    device: str = field(default="cpu", metadata={"key": False})


def key(value: Any) -> str:
    return key_of("fit", value)


def test_a_key_is_its_kind_and_sixteen_hex_digits_and_stays_the_same_for_ever() -> None:
    assert key_of("fit", {"a": 1, "b": [1.0, None, True, "x"]}) == "fit-1a8a8f4d2c68403b"


def test_the_description_names_class_revision_and_fields() -> None:
    assert describe(Part(weight=0.5)) == {
        "part": f"{__name__}:Part",
        "revision": 1,
        "fields": {"weight": 0.5, "steps": 10},
    }


@pytest.mark.parametrize(
    "changed",
    [
        Whole(mode=Mode.SLOW),
        Whole(rates=[0.5, 1.0]),
        Whole(stop=0.0),
        Whole(either=1.0),
        Whole(parts={"a": Part(), "b": Part()}),
        Whole(parts={"a": Other(), "b": Part(weight=2.0)}),  # type: ignore[dict-item]
        Whole(stop=float("inf")),
    ],
)
def test_what_changes_the_result_changes_the_key(changed: Whole) -> None:
    assert key(changed) != key(Whole())


@pytest.mark.parametrize(
    "same",
    [
        Whole(device="cuda"),
        Whole(parts={"b": Part(weight=2.0), "a": Part()}),
        Whole(parts={"a": Part(weight=1), "b": Part(weight=2)}),
        Whole(rates=[1, 0.5]),
        Whole(rates=(1.0, 0.5)),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_key(same: Whole) -> None:
    assert key(same) == key(Whole())


def test_ints_and_floats_differ_where_no_type_is_declared_and_signed_zeros_do_not() -> None:
    assert key({"x": 1}) != key({"x": 1.0})
    assert key({"x": True}) != key({"x": 1})
    assert key({"x": -0.0}) == key({"x": 0.0})
    assert key(Whole(stop=3)) == key(Whole(stop=3.0))


def test_a_new_revision_is_a_new_key() -> None:
    def revised(revision: int) -> Any:
        namespace = {"revision": revision, "__annotations__": {"revision": ClassVar[int]}, "__module__": __name__}
        return make_dataclass("Loss", [("weight", float, 1.0)], namespace=namespace)()

    assert key(revised(1)) != key(revised(2))
    assert key(revised(2)) == key(revised(2))


def test_a_description_describes_itself() -> None:
    value = Whole(stop=float("inf"))
    assert describe(describe(value)) == describe(value)
    assert key(describe(value)) == key(value)


@pytest.mark.parametrize("value", [Path("x"), b"x", {1, 2}, Part, len, float("nan"), {1: 2}])
def test_what_has_no_canonical_form_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(UserError, match=r"^learn\.data\[1\] [^\n]*$"):
        key({"learn": {"data": [0, value]}})


def test_a_field_that_counts_once_it_is_set_leaves_older_keys_as_they_are():
    before = make_dataclass("Late", [("steps", int, 10)])
    now = make_dataclass(
        "Late", [("steps", int, 10), ("lanes", int | None, field(default=None, metadata={"key": "set"}))]
    )
    assert key(now()) == key(now(lanes=None)) == key(before())
    assert len({key(now()), key(now(lanes=1)), key(now(lanes=2))}) == 3
