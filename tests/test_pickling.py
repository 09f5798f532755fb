"""Nothing is pickled, and only one module reads pickles, which admits arrays and plain containers alone."""

import ast

import pytest

from tests.test_rooms import TREES, imports

PICKLING = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
UNPICKLER = "data.readers.unpickle"  # admits arrays and plain containers only


@pytest.mark.parametrize("name", TREES)
def test_module_does_not_pickle(name):
    tree = TREES[name]
    roots = {imported.partition(".")[0] for imported in imports(tree)}
    # functions that pickle although their names do not say it
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    torchs = [ast.unparse(node) for node in calls if ast.unparse(node.func) in ("torch.load", "torch.save")]
    loose = [ast.unparse(node) for node in calls for word in node.keywords if ast.unparse(word) == "allow_pickle=True"]
    assert not loose
    if name == UNPICKLER:
        assert all("weights_only=True" in call for call in torchs)
    else:
        assert not roots & PICKLING
        assert not torchs
