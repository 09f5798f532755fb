"""Numbers that change over a stage: learning rates, weights of losses, exploration rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any

from lfd.errors import UserError


class ScheduleShape(Enum):
    """Interpolation between `start` and `end`."""

    linear = "linear"
    cosine = "cosine"
    exponential = "exponential"


_REQUIRED = {"start", "end", "over"}


@dataclass
class Schedule:
    """A value that goes from `start` to `end` over so many gradient steps and stays at `end`.

    With `warmup` the value first rises linearly to `start` over that many steps; the change to `end` begins after them.
    """

    start: float
    end: float
    over: int  # gradient steps
    shape: ScheduleShape = ScheduleShape.linear
    warmup: int = 0  # gradient steps

    def __call__(self, step: int) -> float:
        """The value at gradient step `step`, counted from 0."""
        if step < self.warmup:
            return self.start * (step + 1) / (self.warmup + 1)
        step -= self.warmup
        progress = min(step / self.over, 1.0)
        if self.shape is ScheduleShape.cosine:
            progress = (1 - math.cos(math.pi * progress)) / 2
        if self.shape is ScheduleShape.exponential:
            return float(self.start * (self.end / self.start) ** progress)
        return float(self.start + (self.end - self.start) * progress)

    @property
    def is_constant(self) -> bool:
        """True if the value is the same at every step."""
        return self.start == self.end and not self.warmup


def parse_schedule(value: Any, name: str, low: float = 0.0, high: float = math.inf) -> Schedule:
    """Parses a number, or `{start: 1, end: 0, over: 5000, shape: linear|cosine|exponential, warmup: 0}`.

    Raises UserError, naming `name`, for anything else and for values outside [low, high].
    """
    if isinstance(value, Mapping) and "steps" in value:
        raise UserError(f"{name}: steps is called over")
    if isinstance(value, int | float) and not isinstance(value, bool):
        parsed = Schedule(value, value, 1)
    elif isinstance(value, Mapping) and _REQUIRED <= value.keys() <= _REQUIRED | {"shape", "warmup"}:
        shape = value.get("shape", "linear")
        if shape not in ScheduleShape.__members__:
            raise UserError(f"{name}: expected a shape of {', '.join(ScheduleShape.__members__)}, got {shape!r}")
        numbers = [value["start"], value["end"], value["over"], value.get("warmup", 0)]
        if not all(
            isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number) for number in numbers
        ):
            raise UserError(f"{name}: expected finite numbers for start, end, over and warmup, got {dict(value)}")
        if numbers[2] < 1 or numbers[3] < 0 or any(number != int(number) for number in numbers[2:]):
            raise UserError(
                f"{name}: expected whole numbers, over of 1 or more and warmup of 0 or more, got {dict(value)}"
            )
        parsed = Schedule(numbers[0], numbers[1], int(numbers[2]), ScheduleShape[shape], int(numbers[3]))
        if parsed.shape is ScheduleShape.exponential and not (parsed.start > 0 and parsed.end > 0):
            raise UserError(f"{name}: expected start and end above 0 for an exponential schedule, got {dict(value)}")
    else:
        raise UserError(f"{name}: expected a number or {{start: …, end: …, over: …}}, got {value!r}")
    for number in (parsed.start, parsed.end):
        if not (low <= number <= high and isfinite(number)):
            raise UserError(f"{name}: expected a value in [{low}, {high}], got {number}")
    return parsed
