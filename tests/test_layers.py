"""The plan of the house: a room imports from lower rooms, a file from files that do not import it; none is excepted."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import thermograd

SOURCE = Path(thermograd.__file__).parent

ROOMS = [
    *("version", "errors", "files", "progress", "streams", "machine"),
    *("config", "data", "models", "metrics", "samplers", "ladders", "evidence", "gradients", "training"),
    *("runs", "evaluation", "sharing", "validation", "testing", "study", "reports"),
    *("api", "", "cli", "__main__"),
]
"""From the lowest on; "" is the door."""
HEAVY = {
    "matplotlib",
    "pandas",
    "torchmetrics",
    "h5py",
    "dask",
    "sklearn",
    "mlxtend",
    "PIL",
    "pooch",
    "arviz",
    "xarray",
}
"""Needed by some commands only, so imported inside functions; `scipy.stats` takes a second as well."""
TORCH_FREE = {"version", "errors", "files", "progress", "config", "", "study", "cli"}
"""Rooms whose files, as they are imported, bring no torch: `thermograd --help` and Dask's workers are quick."""

Graph = dict[str, set[str]]


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(file): file.read_text() for file in sorted(SOURCE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[0]


def is_module(name: str, sources: dict[str, str]) -> bool:
    return name.removeprefix("thermograd").removeprefix(".") in sources


def imports(source: str, sources: dict[str, str], at_the_top: bool = False) -> set[str]:
    """Return the modules of the package that a file imports, inside functions and for types alone as well."""
    nodes = ast.parse(source).body if at_the_top else ast.walk(ast.parse(source))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            for alias in node.names:
                # `from thermograd.cli import data` names a module; `from thermograd.errors import InputError` does not.
                inner = f"{module}.{alias.name}"
                names.add(inner if is_module(inner, sources) else module)
    return {
        name.removeprefix("thermograd").removeprefix(".")
        for name in names
        if name.split(".")[0] == "thermograd"
    }


def upward(sources: dict[str, str]) -> list[str]:
    faults = [f"{name}: no room" for name in sources if room(name) not in ROOMS]
    for name, source in sources.items():
        for other in imports(source, sources):
            known = room(name) in ROOMS and room(other) in ROOMS
            if known and ROOMS.index(room(other)) > ROOMS.index(room(name)):
                faults.append(f"{name} imports {other}, which is above it")
    return faults


def circle(sources: dict[str, str]) -> list[str]:
    """Return files that import each other in a circle; a package's `__init__` imports its own files and is a file."""
    graph: Graph = {name: imports(source, sources) - {name} for name, source in sources.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_is_on_the_plan():
    assert {room(name) for name in SOURCES} == set(ROOMS)


def test_no_module_imports_upward():
    assert upward(SOURCES) == []


def test_no_module_imports_itself_by_way_of_others():
    assert circle(SOURCES) == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        (
            "models.energy",
            "from thermograd.training.trainer import Trainer",
            "training.trainer, which is above",
        ),
        ("training.trainer", "def f():\n    import thermograd.runs.run", "runs.run, which is above"),
        (
            "runs.run",
            "from thermograd.evaluation.evaluate import evaluate_run",
            "evaluation.evaluate, which is above",
        ),
        ("streams", "from thermograd import config", "config, which is above"),
        (
            "errors",
            "if TYPE_CHECKING:\n    from thermograd.models import energy",
            "models.energy, which is above",
        ),
        ("surprise", "", "surprise: no room"),
    ],
)
def test_the_walk_finds_upward_imports(module: str, source: str, fault: str):
    (found,) = set(upward(SOURCES | {module: source})) - set(upward(SOURCES))
    assert fault in found


def test_the_walk_finds_a_circle_inside_a_room():
    planted = SOURCES | {
        "models.energy": "from thermograd.models.latent_ebm import LatentEBM",
        "models.latent_ebm": "def f():\n    from thermograd.models import energy",
    }
    assert {"models.energy", "models.latent_ebm"} <= set(circle(planted))


@pytest.mark.parametrize("name", SOURCES)
def test_heavy_imports_are_inside_functions(name: str):
    at_the_top = []
    for node in ast.parse(SOURCES[name]).body:
        if isinstance(node, ast.Import):
            at_the_top += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            at_the_top.append(node.module or "")
    assert [name for name in at_the_top if name.split(".")[0] in HEAVY or name == "scipy.stats"] == []


def brings_torch(name: str, seen: set[str]) -> bool:
    """Return whether importing a file imports torch, by itself or by what it imports at its top."""
    if name in seen:
        return False
    seen.add(name)
    packages = [name.rsplit(".", i)[0] for i in range(name.count(".") + 1)]
    for node in ast.parse(SOURCES[name]).body:
        words = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        words += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(word.split(".")[0] == "torch" for word in words):
            return True
    below = imports(SOURCES[name], SOURCES, at_the_top=True) | set(packages)
    return any(brings_torch(other, seen) for other in below if other in SOURCES)


@pytest.mark.parametrize("name", [name for name in SOURCES if room(name) in TORCH_FREE])
def test_what_starts_quickly_brings_no_torch(name: str):
    assert not brings_torch(name, set())


def test_the_walk_finds_torch():
    assert brings_torch("models.energy", set())
    assert brings_torch("training.samples", set())
