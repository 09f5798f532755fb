"""A restricted unpickler: arrays, tensors and plain containers; everything else is refused by name."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from lfd.errors import Refused

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
# What unpickling is documented to raise on a damaged file; RuntimeError is torch's, of sizes that do not fit.
_DAMAGED = (
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
            return _storage
        if (module, name) not in _ADMITTED:
            raise Refused(f"{module}.{name} is not an array or a plain container, and loading it could run any code")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _storage(raw: bytes) -> Any:
    # torch's own function of this name unpickles without restriction.
    import torch

    try:
        return torch.load(io.BytesIO(raw), weights_only=True)
    except Exception as error:  # whatever it is: its text advises to load without the restriction
        raise Refused("a torch tensor in it is damaged, or is more than a tensor") from error


def load(path: Path) -> Any:
    """What a pickle holds, if it is arrays, tensors, numbers, text and plain containers of those.

    Raises:
        Refused: it holds anything else, which is named, or is damaged.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except Refused as refusal:
        raise Refused(f"data: {path}: {refusal}; write it again as plain arrays") from None
    except _DAMAGED as error:
        raise Refused(f"data: {path} is not a readable pickle: {error}") from error
