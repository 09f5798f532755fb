"""Numbers that change over a stage: learning rates, weights of losses, exploration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any

from lfd.errors import Refused


class Shape(Enum):
    linear = "linear"
    cosine = "cosine"
    exponential = "exponential"


_REQUIRED = {"start", "end", "steps"}


@dataclass
class Schedule:
    """From `start` to `end` over `steps` gradient steps, and `end` from there on.

    With `warmup` the first so many steps rise to `start`, and the way from there begins behind them.
    """

    start: float
    end: float
    steps: int
    shape: Shape = Shape.linear
    warmup: int = 0  # gradient steps

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.start * (step + 1) / (self.warmup + 1)
        step -= self.warmup
        share = min(step / self.steps, 1.0)
        if self.shape is Shape.cosine:
            share = (1 - math.cos(math.pi * share)) / 2
        if self.shape is Shape.exponential:
            return float(self.start * (self.end / self.start) ** share)
        return float(self.start + (self.end - self.start) * share)

    @property
    def constant(self) -> bool:
        return self.start == self.end and not self.warmup


def schedule(value: Any, what: str, low: float = 0.0, high: float = math.inf) -> Schedule:
    """A number, or `{start: 1, end: 0, steps: 5000, shape: linear|cosine|exponential, warmup: 0}`.

    Raises Refused, naming `what`, for anything else and for values outside [low, high].
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        made = Schedule(value, value, 1)
    elif isinstance(value, Mapping) and _REQUIRED <= value.keys() <= _REQUIRED | {"shape", "warmup"}:
        shape = value.get("shape", "linear")
        if shape not in Shape.__members__:
            raise Refused(f"{what}: shape {shape!r} is not one of {', '.join(Shape.__members__)}")
        numbers = [value["start"], value["end"], value["steps"], value.get("warmup", 0)]
        if not all(isinstance(one, int | float) and not isinstance(one, bool) and isfinite(one) for one in numbers):
            raise Refused(f"{what}: start, end, steps and warmup are finite numbers")
        if numbers[2] < 1 or numbers[3] < 0 or any(one != int(one) for one in numbers[2:]):
            raise Refused(f"{what}: steps is a whole number of gradient steps, 1 or more, and warmup 0 or more")
        made = Schedule(numbers[0], numbers[1], int(numbers[2]), Shape[shape], int(numbers[3]))
        if made.shape is Shape.exponential and not (made.start > 0 and made.end > 0):
            raise Refused(f"{what}: an exponential schedule needs start and end above 0")
    else:
        raise Refused(f"{what}: {value!r} is neither a number nor {{start: …, end: …, steps: …}}")
    for number in (made.start, made.end):
        if not (low <= number <= high and isfinite(number)):
            raise Refused(f"{what}: {number} is outside [{low}, {high}]")
    return made
