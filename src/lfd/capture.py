"""A step recorded once and repeated: its tensor operations alone, without the Python that led to them.

Around the small networks of this field, the Python of modules, autograd and `torch.vmap` takes longer than the
arithmetic in between. What a step does is the same every time: so torch's dispatcher writes it down, and from then on a
flat function does it, to the same bits. Now and then the step itself is run beside it, and where the two differ the
recording is given up.
"""

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lfd.purity import Contents, alike, fields_of, global_generators

KINDS = 16  # kinds of inputs that one function is recorded for
RECORDS = 3  # at most, of each: the first call may also prepare what the others find

# What hands the contents of a tensor to Python, makes as many rows as they say or reshapes it where it stands cannot be
# repeated blindly.
_LOOKING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
_READING = {
    Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr, Tensor.untyped_storage,
    Tensor.apply_, Tensor.map_, Tensor.map2_,
}  # fmt: skip
# An LSTM on a CPU keeps nothing for its gradient in inference mode.
_UNREPEATABLE = {torch.ops.aten.mkldnn_rnn_layer.default}
_BATCH_NORM = torch.ops.aten.native_batch_norm.default  # does not say that it writes its statistics
_SAME = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}  # when no gradient is asked for
_T = torch.ops.aten.t.default
_WITH_NUMBER = {getattr(torch.ops.aten, name).Tensor for name in ("add", "sub", "mul", "div")}
_VARIABLE = re.compile(r"\bv\d+\b")


@dataclass
class Program:
    """A recorded function of its inputs."""

    run: Callable[..., Any]
    found: list[Any]  # tensors and generators that it uses, which are no inputs
    calls: int  # with inputs of this kind, recorded ones too
    fields: list[list[Any]]  # of the owners, as they were recorded
    is_new: bool = True

    def is_unchanged(self, owners: Sequence[object]) -> bool:
        """Are the fields of the owners what they were? By identity, for this is asked in every step."""
        return all(
            len(vars(owner)) == len(fields) and all(map(operator.is_, vars(owner).values(), fields))
            for owner, fields in zip(owners, self.fields, strict=True)
        )

    def is_compared(self) -> bool:
        """Is the function itself run beside it in this call: the first repetition, and calls 4, 8, 16, …?"""
        new, self.is_new = self.is_new, False
        self.calls += 1
        return new or self.calls & (self.calls - 1) == 0


@final
class Captured:
    """A function of tensors that is replayed as soon as two calls in a row with inputs of one kind did the same.

    Its calls are recorded until then: tensors in the arguments are inputs, tensors and generators that it found
    elsewhere are used as they then are, and all else (numbers, flags of modules) stays what it was. If the first three
    calls differ, or if they looked into a tensor, drew from a global generator or changed a field of `owners` or
    `parts`, the function goes on being called. What a replay answers are tensors of inference mode: not to be written
    to, nor differentiated.

    At its first repetition and in calls 4, 8, 16, … the function runs too, from the same state, and its answer and what
    it leaves behind count. If they differ, or a field of `owners` was set anew since, `give_up` is told (arguments, the
    replay's answer or None, the function's answer) and the function is called from then on.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        owners: Sequence[object] = (),
        parts: Sequence[object] = (),
        give_up: Callable[[Any, Any, Any], None] = lambda args, replayed, answer: None,
    ) -> None:
        self.function, self._owners, self._parts, self._give_up = function, owners, parts, give_up
        self.programs: dict[Any, Program | None] = {}  # by kind of inputs; None where it is called
        self._records: dict[Any, list[_Recorder]] = {}

    def __call__(self, *args: Any) -> Any:
        inputs: list[Tensor] = []
        kind = _kind(args, inputs)
        program = self.programs.get(kind)
        if program is not None and program.is_unchanged(self._owners):
            if program.is_compared():
                return self._compared(kind, program, inputs, args)
            with torch.inference_mode():
                return program.run(*inputs)
        if program is not None:
            self.programs = dict.fromkeys(self.programs)
            answer = self.function(*args)
            self._give_up(args, None, answer)
            return answer
        is_new = kind not in self.programs and kind not in self._records
        if kind in self.programs or (is_new and len(self.programs) + len(self._records) == KINDS):
            return self.function(*args)
        return self._recorded(kind, inputs, args)

    def _recorded(self, kind: Any, inputs: list[Tensor], args: Any) -> Any:
        before, generators = self._owned(), global_generators()
        with _Recorder(inputs) as recorder, _Reader() as reader:
            answer = self.function(*args)
        recorder.fields = before, self._owned()
        recorder.looked |= reader.looked or global_generators() != generators
        recorder.end(answer)
        records = self._records.setdefault(kind, [])
        records.append(recorder)
        repeats = len(records) > 1 and recorder.repeats(records[-2])
        if repeats or len(records) == RECORDS:
            fields = [list(vars(owner).values()) for owner in self._owners]
            self.programs[kind] = recorder.compiled(len(records), fields) if repeats else None
            del self._records[kind]
        return answer

    def _owned(self) -> Any:
        return [fields_of(vars(one)) for one in (*self._owners, *self._parts)]

    def _compared(self, kind: Any, program: Program, inputs: list[Tensor], args: Any) -> Any:
        before = Contents([*inputs, *program.found])
        try:
            with torch.inference_mode():
                replayed = program.run(*inputs)
        except Exception:  # an operation fails in its own way where it may not be repeated
            replayed = None
        after = before.now()
        before.restore(after)
        answer = self.function(*args)
        if replayed is None or not alike(replayed, answer) or before.now() != after:
            self.programs[kind] = None
            self._give_up(args, replayed, answer)
        return answer


def _kind(value: Any, inputs: list[Tensor]) -> Any:
    """What decides on the program for arguments: all but the contents of their tensors, which are listed."""
    if isinstance(value, Tensor):
        for index, other in enumerate(inputs):
            if other is value:
                return index
        inputs.append(value)
        return value.shape, value.stride(), value.dtype
    if isinstance(value, dict):
        return tuple([(name, _kind(part, inputs)) for name, part in value.items()])
    if isinstance(value, list | tuple):
        return tuple([_kind(part, inputs) for part in value])
    return type(value), value


class _Reader(TorchFunctionMode):
    """Notices what hands a tensor's contents to Python without an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.looked |= func in _READING
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a line for each operation: x0, x1… are inputs, c0, c1… what it found, v0, v1… what was made."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inputs = [f"x{index}" for index in range(len(inputs))]
        self._names = {id(tensor): name for tensor, name in zip(inputs, self._inputs, strict=True)}
        self._kept: list[Any] = [inputs]  # an id is only unique while its object lives
        self._found: list[Any] = []
        self._made = 0
        self._transposed: dict[str, str] = {}
        self._numbers: dict[str, Tensor] = {}
        self._literals: set[str] = set()  # names of tensors that were written out in Python, as in torch.tensor(2.0)
        self._lines: list[tuple[str, str, bool]] = []  # what an operation makes, the operation, has it other effects?
        self._answer = ""
        self.fields: tuple[Any, Any] = ((), ())  # of the owners, before and behind the call
        self.looked = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do without a wrapper that would import torch's compiler, for two seconds, to hide this method from it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = func(*args, **kwargs)
        self._kept.append((args, kwargs, answer))
        self.looked |= not _LOOKING.isdisjoint(func.tags) or func in _UNREPEATABLE
        if torch.Tag.nondeterministic_seeded in func.tags:
            # Without a generator of its own it draws from the global one.
            self.looked |= not any(isinstance(one, torch.Generator) for one in (*args, *kwargs.values()))
        if func in _WITH_NUMBER and isinstance(args[1], float) and args[0].dtype is torch.float32:
            args = (args[0], self._number(args[1]), *args[2:])
        given = [*map(self._written, args), *(f"{name}={self._written(value)}" for name, value in kwargs.items())]
        if func is torch.ops.aten.lift_fresh.default:
            self._literals.add(given[0])
        if func in _SAME:
            self._names[id(answer)] = given[0]
        elif func is _T and given[0] in self._transposed:
            self._names[id(answer)] = self._transposed[given[0]]
        elif func.is_view and given[0].startswith("c"):
            # A view of what was found shows it for ever: none needs to be made in each step.
            self._written(answer)
        else:
            several = isinstance(answer, tuple | list)
            made = "".join(f"{self._new(part)}, " for part in answer) if several else self._new(answer)
            # A draw nobody reads moves its generator on.
            stays = func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags or func is _BATCH_NORM
            self._lines.append((made, f"{self._written(func)}({', '.join(given)})", stays))
            if func is _T:
                self._transposed[made] = given[0]
        return answer

    def _number(self, value: float) -> Tensor:
        """A number as a tensor, which an operation else makes of it in each step."""
        key = repr(value)  # 0.0 equals -0.0
        if key not in self._numbers:
            self._numbers[key] = number = torch.tensor(value, dtype=torch.float32)
            self._literals.add(self._written(number))
        return self._numbers[key]

    def _new(self, value: Any) -> str:
        """A name for what an operation made; "_" for no tensor, and for one that it was given."""
        if not isinstance(value, Tensor) or id(value) in self._names:
            return "_"
        self._names[id(value)] = name = f"v{self._made}"
        self._made += 1
        return name

    def _written(self, value: Any) -> str:
        """A value as Python: by its name, as a literal or as something found."""
        if isinstance(value, Tensor) and id(value) in self._names:
            return self._names[id(value)]
        if isinstance(value, list | tuple):
            inside = "".join(f"{self._written(part)}, " for part in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key!r}: {self._written(part)}' for key, part in value.items())}}}"
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        if id(value) not in self._names:
            self._names[id(value)] = f"c{len(self._found)}"
            self._found.append(value)
        return self._names[id(value)]

    def end(self, answer: Any) -> None:
        """With what the function answered: tensors in tuples, lists and dicts."""
        self._answer = self._written(answer)
        self._kept.clear()

    def repeats(self, other: Self) -> bool:
        """Did both do the same, to the same tensors? Those that were written out in Python count by their value."""
        if self.looked or not other.fields[1] == self.fields[0] == self.fields[1]:
            return False
        if (self._lines, self._answer) != (other._lines, other._answer):
            return False
        if len(self._found) != len(other._found):
            return False
        pairs = enumerate(zip(self._found, other._found, strict=True))
        return all(_is_same(one, two, f"c{index}" in self._literals) for index, (one, two) in pairs)

    def compiled(self, calls: int, fields: list[list[Any]]) -> Program:
        """A function of its inputs, without what nobody reads; variables live until their last use."""
        live = set(_VARIABLE.findall(self._answer))
        lines = [f"return {self._answer}"]
        for made, operation, stays in reversed(self._lines):
            makes, reads = set(_VARIABLE.findall(made)), set(_VARIABLE.findall(operation))
            if stays or makes & live:
                over = sorted((makes | reads) - live)
                lines.append(f"{made} = {operation}" + (f"; del {', '.join(over)}" if over else ""))
                live = (live | reads) - makes
        source = "\n ".join([f"def program({', '.join(self._inputs)}):", *reversed(lines)])
        namespace = {f"c{index}": value for index, value in enumerate(self._found)}
        exec(source, namespace)  # noqa: S102 - the text was written above
        return Program(namespace["program"], self._found, calls, fields)


def _is_same(one: Any, two: Any, literal: bool) -> bool:
    """Is what was found the same thing, or a literal of the same value that nobody writes to?"""
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return bool(one == two)
    if (one.dtype, one.shape, one.stride()) != (two.dtype, two.shape, two.stride()):
        return False
    return one.data_ptr() == two.data_ptr() or (literal and one._version == 0 == two._version and torch.equal(one, two))
