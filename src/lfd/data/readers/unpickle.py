"""A restricted unpickler, for arrays, tensors and plain containers; it refuses everything else by name."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from lfd.errors import UserError

_NUMPY = {
    "multiarray": ("_reconstruct", "scalar"),
    "numeric": ("_frombuffer",),
}
# numpy 1 wrote numpy.core, numpy 2 writes numpy._core.
_ADMITTED = {(f"numpy.{core}.{m}", name) for core in ("core", "_core") for m, names in _NUMPY.items() for name in names}
_ADMITTED |= {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),  # how protocol 2 writes bytes
    ("torch._utils", "_rebuild_tensor_v2"),  # torch's own weights_only loader admits it: it checks sizes and strides
}
# Enumerations of integers, read as their values: the actions of MiniGrid, in all its versions.
_AS_INT = {
    ("minigrid.core.actions", "Actions"),
    ("gym_minigrid.minigrid", "MiniGridEnv.Actions"),
    ("gym_minigrid.minigrid", "Actions"),
}
# The exceptions that unpickling is documented to raise on a damaged file; torch raises RuntimeError for wrong sizes.
_DAMAGE_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_torch_storage
        if (module, name) in _AS_INT:
            return int
        if (module, name) not in _ADMITTED:
            raise UserError(
                f"expected arrays and plain containers, got {module}.{name}, and loading it could run any code"
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _load_torch_storage(raw: bytes) -> Any:
    # torch's own `_load_from_bytes` unpickles without restriction.
    import torch

    try:
        return torch.load(io.BytesIO(raw), weights_only=True)
    except Exception as error:  # torch's own text advises to load without the restriction
        raise UserError("expected a torch tensor, got a damaged one or another object") from error


def load_pickle(path: Path, raw: bytes | None = None) -> Any:
    """The content of a pickle of arrays, tensors, numbers, text and plain containers of those.

    The pickle is the file, or its part `raw`.

    Raises:
        UserError: the pickle is damaged, or holds any other class, which the message names.
    """
    try:
        with path.open("rb") if raw is None else io.BytesIO(raw) as file:
            return _Unpickler(file).load()
    except UserError as refusal:
        raise UserError(f"data: {path}: {refusal}; write it again as plain arrays") from None
    except _DAMAGE_ERRORS as error:
        raise UserError(f"data: {path}: expected a pickle, got a damaged one ({error}); write it again") from error
