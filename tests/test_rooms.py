"""The structure of the package: imports run one way, Hydra stays in `config`, and a public name has one meaning."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "lfd"

# Each package or module imports from rows above its own, and from itself.
ROWS = [
    ["errors", "batch", "maths", "rng"],
    ["registry", "files", "schedule", "hardware", "interrupts"],
    ["store", "log"],
    ["envs", "report"],
    ["nets"],
    ["agents", "data"],
    ["algos", "episodes"],
    ["experts"],
    ["sources"],
    ["learner"],
    ["stages"],
    ["config", "pipeline"],
    ["runs"],
    ["cli"],
]
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}
HYDRA_INTERNALS = "config.loader"  # the only module that uses private parts of Hydra and OmegaConf


def trees(folder: Path) -> dict[str, ast.Module]:
    """The syntax trees of modules by their dotted names below a folder, packages by their own."""
    paths = {path.relative_to(folder).with_suffix(""): path for path in folder.rglob("*.py")}
    return {
        ".".join(place.parts).removesuffix(".__init__"): ast.parse(path.read_text()) for place, path in paths.items()
    }


TREES = trees(SRC)


def imports(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of imports, at the top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(name: str) -> list[str]:
    """Modules of lfd that a module imports, as names below lfd; `__version__` is of the package itself."""
    names = [imported.removeprefix("lfd.") for imported in imports(TREES[name]) if imported.startswith("lfd.")]
    return [module for each in names if (module := each if each in TREES else each.rpartition(".")[0])]


def public_names(tree: ast.Module) -> Iterator[str]:
    """Public names that a module defines at its top level."""
    for node in tree.body:
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        yield from (name for name in names if not name.startswith("_"))


@pytest.mark.parametrize("name", sorted(TREES.keys() - {"__init__"}))
def test_imports_run_one_way(name):
    room = name.partition(".")[0]
    assert room in LEVEL, f"{room} is new: add it to a row"
    assert not {"utils", "common", "helpers"} & set(name.split("."))
    for imported in imported_modules(name):
        other = imported.partition(".")[0]
        assert other == room or LEVEL[other] < LEVEL[room], f"{name} imports {imported}"
        assert not (name.startswith("algos.") and imported.startswith("algos.")), f"{name} imports an algorithm"


# `lfd.load` and `lfd.run` are the Python API; the functions in packages do their work, so that `import lfd` stays fast.
API = {"load": {"__init__", "runs.policy"}, "run": {"__init__", "cli.main", "runs.api"}}


def test_public_names_are_defined_in_one_place():
    places = defaultdict(set)
    for name, tree in TREES.items():
        for public in public_names(tree):
            places[public].add(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == API


def test_hydra_and_omegaconf_are_imported_by_config_and_the_sweep_alone():
    for name, tree in TREES.items():
        roots = {imported.partition(".")[0] for imported in imports(tree)}
        assert not roots & {"hydra", "omegaconf"} or name.startswith("config.") or name == "cli.sweep", name


def test_internals_of_hydra_and_omegaconf_are_used_by_one_module():
    """Modules that import them read no private attribute of another object, and nothing of `hydra._internal`."""
    for name, tree in TREES.items():
        imported = set(imports(tree))
        if name == HYDRA_INTERNALS or not {"hydra", "omegaconf"} & {each.partition(".")[0] for each in imported}:
            continue
        assert not [each for each in imported if "._" in each], name
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
        foreign = [ast.unparse(node) for node in attributes if ast.unparse(node.value) not in ("self", "cls")]
        assert not [each for each in foreign if not each.endswith("__")], (name, foreign)


def test_scripts_are_never_imported():
    for name, tree in [*TREES.items(), *trees(Path(__file__).parent).items()]:
        assert "scripts" not in {imported.partition(".")[0] for imported in imports(tree)}, name
