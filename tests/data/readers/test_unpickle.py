"""The restricted unpickler reads arrays, tensors and containers, and runs no code."""

from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from lfd.data.readers.unpickle import load_pickle
from lfd.errors import UserError


class Runs:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_load_pickle_arrays_tensors_and_containers_are_equal(tmp_path, protocol):
    value = {
        "array": np.arange(6, dtype=np.int64).reshape(2, 3),
        "scalar": np.float32(2.5),
        "tensor": torch.arange(6.0).reshape(2, 3)[:, 1:],
        "plain": [1, 2.5, "text", True, None, (b"bytes",), collections.OrderedDict(a=1)],
    }
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    found = load_pickle(path)
    np.testing.assert_array_equal(found["array"], value["array"])
    torch.testing.assert_close(found["tensor"], value["tensor"])
    assert (found["scalar"], found["plain"]) == (value["scalar"], value["plain"])


def test_load_pickle_of_numpy_1_is_read(tmp_path):
    raw = pickle.dumps(np.arange(4), protocol=0).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "old.pkl").write_bytes(raw)
    np.testing.assert_array_equal(load_pickle(tmp_path / "old.pkl"), np.arange(4))


def test_load_pickle_other_class_is_refused_and_not_run(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([{"obs": Runs(tmp_path / "ran")}]))
    with pytest.raises(UserError, match="posix.mkdir"):
        load_pickle(path)
    assert not (tmp_path / "ran").exists()


def test_load_pickle_code_in_tensor_storage_is_not_run(tmp_path):
    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.read_bytes(),)

    inner = tmp_path / "inner.pt"
    torch.save(Runs(tmp_path / "ran"), inner, _use_new_zipfile_serialization=False)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Storage()))
    with pytest.raises(UserError, match="expected a torch tensor, got a damaged one or another object"):
        load_pickle(path)
    assert not (tmp_path / "ran").exists()


def test_load_pickle_damaged_file_is_refused(tmp_path):
    (tmp_path / "half.pkl").write_bytes(pickle.dumps(list(range(100)))[:50])
    with pytest.raises(UserError, match="expected a pickle, got a damaged one"):
        load_pickle(tmp_path / "half.pkl")
