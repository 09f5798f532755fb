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
    ["registry", "schedule", "hardware", "interrupts"],
    ["store"],
    ["log"],
    ["nets", "envs", "report"],
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


def modules() -> dict[str, Path]:
    """Dotted names below lfd, packages by their own."""
    paths = (path.relative_to(SRC) for path in SRC.rglob("*.py") if path != SRC / "__init__.py")
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): SRC / path for path in paths}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of imports, at the top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(name: str) -> list[str]:
    """Modules of lfd that a module imports, as names below lfd."""
    tree = ast.parse(modules()[name].read_text())
    names = [imported.removeprefix("lfd.") for imported in imports(tree) if imported.startswith("lfd.")]
    return [imported if imported in modules() else imported.rpartition(".")[0] for imported in names]


def public_names(tree: ast.Module) -> Iterator[str]:
    """Public names that a module defines at its top level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


@pytest.mark.parametrize("name", modules())
def test_imports_run_one_way(name):
    room = name.partition(".")[0]
    assert room in LEVEL, f"{room} is new: add it to a row"
    for imported in imported_modules(name):
        other = imported.partition(".")[0]
        # `from lfd import __version__` imports the package itself
        assert not other or other == room or LEVEL[other] < LEVEL[room], f"{name} imports {imported}"


def test_algorithms_do_not_import_each_other():
    for name in modules():
        if name.startswith("algos."):
            assert not [imported for imported in imported_modules(name) if imported.startswith("algos.")], name


# `lfd.load` and `lfd.run` are the Python API; the functions in packages do their work, so that `import lfd` stays fast.
API = {"load": {"__init__", "runs.policy"}, "run": {"__init__", "cli.main", "runs.api"}}


def test_public_names_are_defined_in_one_place():
    places = defaultdict(set)
    for name, path in {"__init__": SRC / "__init__.py", **modules()}.items():
        for public in public_names(ast.parse(path.read_text())):
            places[public].add(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == API


def test_hydra_and_omegaconf_are_imported_by_config_and_the_sweep_alone():
    for name, path in modules().items():
        roots = {imported.partition(".")[0] for imported in imports(ast.parse(path.read_text()))}
        assert not roots & {"hydra", "omegaconf"} or name.startswith("config.") or name == "cli.sweep", name


def test_internals_of_hydra_and_omegaconf_are_used_by_one_module():
    """Modules that import them read no private attribute of another object, and nothing of `hydra._internal`."""
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        imported = set(imports(tree))
        if name == HYDRA_INTERNALS or not {"hydra", "omegaconf"} & {each.partition(".")[0] for each in imported}:
            continue
        assert not [each for each in imported if "._" in each], name
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
        foreign = [ast.unparse(node) for node in attributes if ast.unparse(node.value) not in ("self", "cls")]
        assert not [each for each in foreign if not each.endswith("__")], (name, foreign)


def test_scripts_are_never_imported():
    for path in [*SRC.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        assert not [
            imported for imported in imports(ast.parse(path.read_text())) if imported.partition(".")[0] == "scripts"
        ], path


def test_no_module_is_called_utils():
    assert not {"utils", "common", "helpers"} & {part for name in modules() for part in name.split(".")}
