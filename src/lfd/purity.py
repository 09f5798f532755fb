"""Whether a gradient step may be recorded: what its parts declare, and what it does besides operations on tensors."""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-3  # relative, of answers on devices whose sums have no fixed order


def declares(part: object) -> bool:
    """Does the class of a loss or module say `recordable = True` itself? What its base classes say is not inherited."""
    return vars(type(part)).get("recordable") is True


def undeclared(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that do not declare themselves recordable; PyTorch's own need not."""
    return [one for one in modules if not declares(one) and not type(one).__module__.startswith("torch.")]


def fields_of(value: Any, depth: int = 3) -> Any:
    """What an object's fields hold, to be compared by `==`, down to fields of fields; tensors count by identity."""
    match value:
        case None | bool() | int() | float() | str():
            return repr(value)
        case np.ndarray():
            return id(value), value.tobytes()
        case np.random.Generator():
            return repr(value.bit_generator.state)
        case random.Random():
            return value.getstate()
        case Mapping():
            return tuple((repr(key), fields_of(inner, depth)) for key, inner in value.items())
        case list() | tuple() | set() | frozenset():
            return tuple(fields_of(inner, depth) for inner in value)
        case itertools.count() | itertools.cycle() | itertools.repeat():
            return repr(value)
        case Tensor() | nn.Module() | type():
            return id(value)
    return id(value), fields_of(getattr(value, "__dict__", None), depth - 1) if depth else None


def global_generators() -> tuple[Any, ...]:
    """The states of the generators that any code may draw from."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


@final
class Contents:
    """What tensors and generators hold at one moment: to compare with, and to go back to."""

    def __init__(self, found: Sequence[Any]) -> None:
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}  # by address: the storage's bytes, and a copy of them
        self._generators = [(one, one.get_state()) for one in found if isinstance(one, torch.Generator)]
        for one in found:
            if isinstance(one, Tensor) and one.layout is torch.strided:
                storage = one.untyped_storage()
                if storage.data_ptr() not in self._memory:
                    raw = torch.empty(0, dtype=torch.uint8, device=one.device).set_(storage)
                    self._memory[storage.data_ptr()] = raw, raw.clone()

    def now(self) -> Self:
        """The same places as they are now; what has not changed shares its copy with this."""
        other = object.__new__(type(self))
        other._memory = {
            at: (raw, copy if torch.equal(raw, copy) else raw.clone()) for at, (raw, copy) in self._memory.items()
        }
        other._generators = [(one, one.get_state()) for one, _ in self._generators]
        return other

    def restore(self, changed: Self) -> None:
        """Go back to what stood here before it became `changed`."""
        with torch.inference_mode():
            for at, (raw, copy) in self._memory.items():
                if changed._memory[at][1] is not copy:
                    raw.copy_(copy)
        for generator, state in self._generators:
            generator.set_state(state)

    def __eq__(self, other: object) -> bool:
        """Bit for bit; on devices whose sums have no fixed order only the generators."""
        if not isinstance(other, Contents):
            return NotImplemented
        bits = all(
            raw.device.type != "cpu" or torch.equal(copy, other._memory[at][1])
            for at, (raw, copy) in self._memory.items()
        )
        states = zip(self._generators, other._generators, strict=True)
        return bits and all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in states)

    __hash__ = None  # type: ignore[assignment]


def alike(one: Any, other: Any) -> bool:
    """Are two answers (tensors in dicts, lists and tuples) the same, NaN equal to NaN?"""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return torch.allclose(one, other, TOLERANCE * (one.device.type != "cpu"), 0.0, equal_nan=True)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)
