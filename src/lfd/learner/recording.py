"""A gradient step recorded once and replayed: its tensor operations alone, without the Python that led to them.

Around small networks, the Python of modules, autograd and `torch.vmap` takes longer than the arithmetic. A step does
the same operations every time: torch's dispatcher records them, and a flat function replays them, to the same bits. At
calls 4, 8, 16, … the step itself runs beside its replay, and if the two differ the recording is dropped.
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

from lfd.batch import Batch
from lfd.learner.purity import Contents, alike, fields_of, global_generators

KINDS = 16  # maximum number of kinds of inputs that a function is recorded for
RECORDS = 3  # maximum number of recordings of each kind, as the first call may also initialize something

# Operations that pass a tensor's contents to Python, whose output shape depends on contents, or that reshape a tensor
# in place cannot be replayed.
_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
_READS_CONTENTS = {
    Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr, Tensor.untyped_storage,
    Tensor.apply_, Tensor.map_, Tensor.map2_,
}  # fmt: skip
# In inference mode an LSTM on a CPU stores nothing for its gradient.
_UNREPLAYABLE = {torch.ops.aten.mkldnn_rnn_layer.default}
_BATCH_NORM = torch.ops.aten.native_batch_norm.default  # its schema does not declare that it writes its statistics
_SAME = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}  # return their input if no gradient is needed
_T = torch.ops.aten.t.default
_WITH_NUMBER = {getattr(torch.ops.aten, name).Tensor for name in ("add", "sub", "mul", "div")}
_VARIABLE = re.compile(r"\bv\d+\b")


@dataclass
class Program:
    """A recorded function of its inputs."""

    run: Callable[..., Any]
    externals: list[Any]  # tensors and generators that it uses beside its inputs
    calls: int  # calls with inputs of this kind, recorded ones included
    fields: list[list[Any]]  # fields of the owners when it was recorded
    is_new: bool = True

    def is_unchanged(self, owners: Sequence[object]) -> bool:
        """True if the owners' fields are the objects that they were; compared by identity, as every step asks it."""
        return all(
            len(vars(owner)) == len(fields) and all(map(operator.is_, vars(owner).values(), fields))
            for owner, fields in zip(owners, self.fields, strict=True)
        )

    def is_compared(self) -> bool:
        """True if the function runs beside it in this call: the first replay, and calls 4, 8, 16, …."""
        new, self.is_new = self.is_new, False
        self.calls += 1
        return new or self.calls & (self.calls - 1) == 0


@final
class RecordedStep:
    """A function of tensors that is replayed once two calls in a row with inputs of one kind did the same operations.

    A replay reads tensors in the arguments, and other tensors and generators that the function uses, as they are at the
    replay; everything else (numbers, flags of modules) keeps its recorded value. If the first three calls differ, read
    the contents of a tensor, draw from a global generator or change a field of `owners` or `parts`, the function is
    called every time. A replay returns tensors of inference mode, which can be neither written to nor differentiated.

    At the first replay and in calls 4, 8, 16, … the function runs too, from the same state; its result and its effects
    on tensors count. If they differ from the replay's, or a field of `owners` was set since, `give_up(arguments,
    result of the replay or None, result of the function)` is called, and the function runs from then on.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        owners: Sequence[object] = (),
        parts: Sequence[object] = (),
        give_up: Callable[[Any, Any, Any], None] = lambda args, replayed, result: None,
    ) -> None:
        self.function, self._owners, self._parts, self._give_up = function, owners, parts, give_up
        self.programs: dict[Any, Program | None] = {}  # by kind of inputs; None where it is called
        self._records: dict[Any, list[_OperationRecorder]] = {}

    def __call__(self, *args: Any) -> Any:
        inputs: list[Tensor] = []
        kind = _kind(args, inputs)
        program = self.programs.get(kind)
        if program is not None and program.is_unchanged(self._owners):
            if program.is_compared():
                return self._compare(kind, program, inputs, args)
            with torch.inference_mode():
                return program.run(*inputs)
        if program is not None:
            self.programs = dict.fromkeys(self.programs)
            result = self.function(*args)
            self._give_up(args, None, result)
            return result
        is_new = kind not in self.programs and kind not in self._records
        if kind in self.programs or (is_new and len(self.programs) + len(self._records) == KINDS):
            return self.function(*args)
        return self._record(kind, inputs, args)

    def _record(self, kind: Any, inputs: list[Tensor], args: Any) -> Any:
        before, generators = self._fields(), global_generators()
        with _OperationRecorder(inputs) as recorder, _OperationReader() as reader:
            result = self.function(*args)
        recorder.fields = before, self._fields()
        recorder.unrepeatable |= reader.unrepeatable or global_generators() != generators
        recorder.end(result)
        records = self._records.setdefault(kind, [])
        records.append(recorder)
        repeats = len(records) > 1 and recorder.repeats(records[-2])
        if repeats or len(records) == RECORDS:
            fields = [list(vars(owner).values()) for owner in self._owners]
            self.programs[kind] = recorder.compiled(len(records), fields) if repeats else None
            del self._records[kind]
        return result

    def _fields(self) -> Any:
        return [fields_of(vars(owner)) for owner in (*self._owners, *self._parts)]

    def _compare(self, kind: Any, program: Program, inputs: list[Tensor], args: Any) -> Any:
        before = Contents([*inputs, *program.externals])
        try:
            with torch.inference_mode():
                replayed = program.run(*inputs)
        except Exception:  # operations that may not be repeated raise errors of any class
            replayed = None
        after = before.now()
        before.restore(after)
        result = self.function(*args)
        if replayed is None or not alike(replayed, result) or before.now() != after:
            self.programs[kind] = None
            self._give_up(args, replayed, result)
        return result


def _kind(value: Any, inputs: list[Tensor]) -> Any:
    """The key of the program for arguments: all but the contents of their tensors, which are added to `inputs`."""
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
    if isinstance(value, Batch):
        return _kind(value.__dict__, inputs)
    return type(value), value


class _OperationReader(TorchFunctionMode):
    """Notices functions that hand a tensor's contents to Python without an operation of the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.unrepeatable = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.unrepeatable |= func in _READS_CONTENTS
        return func(*args, **(kwargs or {}))


class _OperationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a line for each operation: x0, x1… are inputs, c0, c1… other tensors and objects, v0, v1… results."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inputs = [f"x{index}" for index in range(len(inputs))]
        self._names = {id(tensor): name for tensor, name in zip(inputs, self._inputs, strict=True)}
        self._kept: list[Any] = [inputs]  # an id is only unique while its object lives
        self._externals: list[Any] = []
        self._num_results = 0
        self._transposed: dict[str, str] = {}
        self._numbers: dict[str, Tensor] = {}
        self._literals: set[str] = set()  # names of tensors that are literals of Python, as torch.tensor(2.0)
        self._lines: list[tuple[str, str, bool]] = []  # results of an operation, the operation, True if it has effects
        self._result = ""
        self.fields: tuple[Any, Any] = ((), ())  # of the owners, before and after the call
        self.unrepeatable = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Avoids a wrapper that hides this method from torch's compiler and imports it, which takes two seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._kept.append((args, kwargs, result))
        self.unrepeatable |= not _DATA_DEPENDENT.isdisjoint(func.tags) or func in _UNREPLAYABLE
        if torch.Tag.nondeterministic_seeded in func.tags:
            # without its own generator it draws from the global one
            self.unrepeatable |= not any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values()))
        if func in _WITH_NUMBER and isinstance(args[1], float) and args[0].dtype is torch.float32:
            args = (args[0], self._number(args[1]), *args[2:])
        operands = [*map(self._written, args), *(f"{name}={self._written(value)}" for name, value in kwargs.items())]
        if func is torch.ops.aten.lift_fresh.default:
            self._literals.add(operands[0])
        if func in _SAME:
            self._names[id(result)] = operands[0]
        elif func is _T and operands[0] in self._transposed:
            self._names[id(result)] = self._transposed[operands[0]]
        elif func.is_view and operands[0].startswith("c"):
            # a view of a tensor that is no input stays valid, so it is made once and not in each step
            self._written(result)
        else:
            several = isinstance(result, tuple | list)
            results = "".join(f"{self._new(part)}, " for part in result) if several else self._new(result)
            # a draw changes its generator, even if no operation reads its result
            has_effects = (
                func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags or func is _BATCH_NORM
            )
            self._lines.append((results, f"{self._written(func)}({', '.join(operands)})", has_effects))
            if func is _T:
                self._transposed[results] = operands[0]
        return result

    def _number(self, value: float) -> Tensor:
        """A number as a tensor, so that the operation need not convert it in each step."""
        key = repr(value)  # 0.0 equals -0.0
        if key not in self._numbers:
            self._numbers[key] = number = torch.tensor(value, dtype=torch.float32)
            self._literals.add(self._written(number))
        return self._numbers[key]

    def _new(self, value: Any) -> str:
        """A name for a result of an operation; "_" for no tensor, and for one of its inputs."""
        if not isinstance(value, Tensor) or id(value) in self._names:
            return "_"
        self._names[id(value)] = name = f"v{self._num_results}"
        self._num_results += 1
        return name

    def _written(self, value: Any) -> str:
        """A value as Python source: its name, a literal, or a new name c0, c1…."""
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
            self._names[id(value)] = f"c{len(self._externals)}"
            self._externals.append(value)
        return self._names[id(value)]

    def end(self, result: Any) -> None:
        """Ends the recording with the function's result: tensors in tuples, lists and dicts."""
        self._result = self._written(result)
        self._kept.clear()

    def repeats(self, other: Self) -> bool:
        """True if both did the same operations on the same tensors; literals of Python are compared by value."""
        if self.unrepeatable or not other.fields[1] == self.fields[0] == self.fields[1]:
            return False
        if (self._lines, self._result) != (other._lines, other._result):
            return False
        if len(self._externals) != len(other._externals):
            return False
        pairs = enumerate(zip(self._externals, other._externals, strict=True))
        return all(_is_same(one, two, f"c{index}" in self._literals) for index, (one, two) in pairs)

    def compiled(self, calls: int, fields: list[list[Any]]) -> Program:
        """A function of its inputs, without operations whose results are unused; variables are freed after use."""
        live = set(_VARIABLE.findall(self._result))
        lines = [f"return {self._result}"]
        for results, operation, has_effects in reversed(self._lines):
            written, reads = set(_VARIABLE.findall(results)), set(_VARIABLE.findall(operation))
            if has_effects or written & live:
                unused = sorted((written | reads) - live)
                lines.append(f"{results} = {operation}" + (f"; del {', '.join(unused)}" if unused else ""))
                live = (live | reads) - written
        source = "\n ".join([f"def program({', '.join(self._inputs)}):", *reversed(lines)])
        namespace = {f"c{index}": value for index, value in enumerate(self._externals)}
        exec(source, namespace)  # noqa: S102 - the text was written above
        return Program(namespace["program"], self._externals, calls, fields)


def _is_same(one: Any, two: Any, literal: bool) -> bool:
    """True for the same object or storage, and for literals of equal value that no operation wrote to."""
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return bool(one == two)
    if (one.dtype, one.shape, one.stride()) != (two.dtype, two.shape, two.stride()):
        return False
    return one.data_ptr() == two.data_ptr() or (literal and one._version == 0 == two._version and torch.equal(one, two))
