"""Checks if a gradient step may be recorded: declarations of its parts, and effects other than tensor operations."""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-3  # relative, of results on devices whose sums have no fixed order


def is_recordable(part: object) -> bool:
    """True if the class of a loss or module itself sets `recordable = True`; base classes do not count."""
    return vars(type(part)).get("recordable") is True


def unrecordable_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that do not declare themselves recordable; PyTorch's own need not."""
    return [
        module for module in modules if not is_recordable(module) and not type(module).__module__.startswith("torch.")
    ]


def fields_of(value: Any, depth: int = 3) -> Any:
    """The contents of an object's fields as values for `==`, `depth` objects deep; tensors count by identity."""
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
    """The states of the global random generators of Python, NumPy and torch."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


@final
class Contents:
    """A snapshot of tensors and generators, to compare with and to restore."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}  # by address: the storage's bytes, and a copy of them
        self._generators = [(value, value.get_state()) for value in values if isinstance(value, torch.Generator)]
        for value in values:
            if isinstance(value, Tensor) and value.layout is torch.strided:
                storage = value.untyped_storage()
                if storage.data_ptr() not in self._memory:
                    raw = torch.empty(0, dtype=torch.uint8, device=value.device).set_(storage)
                    self._memory[storage.data_ptr()] = raw, raw.clone()

    def now(self) -> Self:
        """A snapshot of the same tensors and generators now; unchanged ones share their copy with this one."""
        other = object.__new__(type(self))
        other._memory = {
            at: (raw, copy if torch.equal(raw, copy) else raw.clone()) for at, (raw, copy) in self._memory.items()
        }
        other._generators = [(generator, generator.get_state()) for generator, _ in self._generators]
        return other

    def restore(self, changed: Self) -> None:
        """Writes this snapshot back; `changed` is the present one, whose unchanged tensors are skipped."""
        with torch.inference_mode():
            for at, (raw, copy) in self._memory.items():
                if changed._memory[at][1] is not copy:
                    raw.copy_(copy)
        for generator, state in self._generators:
            generator.set_state(state)

    def __eq__(self, other: object) -> bool:
        """Equal bit for bit; on devices whose sums have no fixed order only the generators are compared."""
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
    """True if two results (tensors in dicts, lists and tuples) are the same, NaN equal to NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return torch.allclose(one, other, TOLERANCE * (one.device.type != "cpu"), 0.0, equal_nan=True)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)
