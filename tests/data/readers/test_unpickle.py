from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from lfd.data.readers.unpickle import load
from lfd.errors import Refused


class Runs:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_tensors_and_containers(tmp_path, protocol):
    value = {
        "array": np.arange(6, dtype=np.int64).reshape(2, 3),
        "scalar": np.float32(2.5),
        "tensor": torch.arange(6.0).reshape(2, 3)[:, 1:],
        "plain": [1, 2.5, "text", True, None, (b"bytes",), collections.OrderedDict(a=1)],
    }
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    found = load(path)
    np.testing.assert_array_equal(found["array"], value["array"])
    torch.testing.assert_close(found["tensor"], value["tensor"])
    assert (found["scalar"], found["plain"]) == (value["scalar"], value["plain"])


def test_what_numpy_1_wrote(tmp_path):
    raw = pickle.dumps(np.arange(4), protocol=0).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "old.pkl").write_bytes(raw)
    np.testing.assert_array_equal(load(tmp_path / "old.pkl"), np.arange(4))


def test_anything_else_is_refused_by_name_and_does_not_run(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([{"obs": Runs(tmp_path / "ran")}]))
    with pytest.raises(Refused, match="posix.mkdir"):
        load(path)
    assert not (tmp_path / "ran").exists()


def test_nothing_runs_inside_a_tensors_storage(tmp_path):
    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.read_bytes(),)

    inner = tmp_path / "inner.pt"
    torch.save(Runs(tmp_path / "ran"), inner, _use_new_zipfile_serialization=False)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Storage()))
    with pytest.raises(Refused, match="a torch tensor in it is damaged, or is more than a tensor"):
        load(path)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_pickle_is_refused(tmp_path):
    (tmp_path / "half.pkl").write_bytes(pickle.dumps(list(range(100)))[:50])
    with pytest.raises(Refused, match="not a readable pickle"):
        load(tmp_path / "half.pkl")
