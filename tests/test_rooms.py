"""The rooms of the house: imports run one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "lfd"

# Each room imports from rows above its own, and from itself.
ROWS = [
    ["errors", "purity"],
    ["batch", "capture", "maths", "noise", "schedule", "files", "hardware", "interrupts", "provenance", "registry"],
    ["keys", "log"],
    ["artifacts"],
    ["nets", "envs"],
    ["agents", "data", "report", "terminal"],
    ["episodes"],
    ["experts"],
    ["labels"],
    ["algos", "sources"],
    ["optim"],
    ["learner"],
    ["stages"],
    ["paces"],
    ["pipeline", "reading", "housekeeping"],
    ["composing"],
    ["refusals"],
    ["values"],
    ["experiment"],
    ["run", "trials"],
    ["estimates"],
    ["plan"],
    ["sweep"],
    ["help"],
    ["cli"],
]
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}
KNOW_HYDRA = {"composing", "refusals", "values", "experiment", "sweep", "cli"}


def modules() -> dict[str, Path]:
    """Dotted names below lfd, packages by their own."""
    paths = (path.relative_to(SRC) for path in SRC.rglob("*.py") if path != SRC / "__init__.py")
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): SRC / path for path in paths}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of what is imported, at the top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> list[str]:
    """What is imported of lfd, as module names below it."""
    tree = ast.parse(modules()[name].read_text())
    found = [one.removeprefix("lfd.") for one in imports(tree) if one.startswith("lfd.")]
    return [one if one in modules() else one.rpartition(".")[0] for one in found]


@pytest.mark.parametrize("name", modules())
def test_imports_run_one_way(name):
    room = name.partition(".")[0]
    assert room in LEVEL, f"{room} is new: give it a row"
    for imported in own(name):
        other = imported.partition(".")[0]
        # `from lfd import __version__` imports the package itself
        assert not other or other == room or LEVEL[other] < LEVEL[room], f"{name} imports {imported}"


def test_algorithms_do_not_import_each_other():
    for name in modules():
        if name.startswith("algos."):
            assert not [one for one in own(name) if one.startswith("algos.")], name


def test_few_know_hydra():
    for name, path in modules().items():
        roots = {one.partition(".")[0] for one in imports(ast.parse(path.read_text()))}
        if roots & {"hydra", "omegaconf"}:
            assert name.partition(".")[0] in KNOW_HYDRA, name


def test_scripts_are_never_imported():
    for path in [*SRC.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        assert not [one for one in imports(ast.parse(path.read_text())) if one.partition(".")[0] == "scripts"], path


def test_no_room_for_what_has_no_name():
    assert not {"utils", "common", "helpers"} & {part for name in modules() for part in name.split(".")}


PICKLING = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
UNPICKLER = "data.readers.unpickle"  # which admits arrays and plain containers alone


@pytest.mark.parametrize("name", modules())
def test_nothing_is_pickled_and_only_what_is_admitted_is_unpickled(name):
    tree = ast.parse(modules()[name].read_text())
    roots = {one.partition(".")[0] for one in imports(tree)}
    # functions that pickle without saying so
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    torchs = [ast.unparse(node) for node in calls if ast.unparse(node.func) in ("torch.load", "torch.save")]
    loose = [ast.unparse(node) for node in calls for word in node.keywords if ast.unparse(word) == "allow_pickle=True"]
    assert not loose
    if name == UNPICKLER:
        assert all("weights_only=True" in call for call in torchs)
    else:
        assert not roots & PICKLING
        assert not torchs
