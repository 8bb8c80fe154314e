"""A module imports from lower layers, or from lines above it in its own; heavy imports are where they are needed."""

import ast
from pathlib import Path

import pytest

import thermograd

SOURCE = Path(thermograd.__file__).parent

LAYERS: list[list[str]] = [
    ["errors", "files", "streams", "config", "resolve", "schedules", "quadrature"],
    [
        *("models.latent_model", "models.energy", "models.generator", "models.latent_ebm"),
        "models.cuda_graphs",
        *("models.exact_twin", "models.linear_gaussian", "models.grid"),
    ],
    [
        *("samplers.target", "samplers.langevin", "samplers.mala", "samplers.replica_exchange"),
        *("samplers.ladder", "samplers.diagnostics"),
    ],
    ["evidence", "gradients", "variance_statistics", "reference_gradient", "gradient_variance"],
    ["data", "checkpoint", "optimiser", "memory", "guards", "training"],
    ["generation", "pictures", "metrics", "statistics", "association"],
    [
        "build",
        "run_folder",
        "probe",
        "run",
        "variance_table",
        "evaluation",
        "comparison",
        "evidence_table",
        "validate",
        "study",
        "report",
    ],
    ["cli", "__main__"],
]
"""Layers from the lowest on; a name stands for a module or for a whole package."""

PLACES = {name: (layer, line) for layer, names in enumerate(LAYERS) for line, name in enumerate(names)}
MARKERS = {"", "models", "samplers"}
"""Packages that hold no code of their own."""


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(module: str) -> tuple[str, tuple[int, int]] | None:
    """Return the entry of the table that a module belongs to; None where there is none."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in PLACES:
            return name, PLACES[name]
    return None


def imported_modules(tree: ast.AST) -> list[str]:
    """Return the modules of the package that a file imports, also inside functions."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            # `from thermograd.cli import data` names a module; `from thermograd.errors import InputError` does not.
            for alias in node.names:
                inner = SOURCE.joinpath(*module.split(".")[1:], alias.name)
                is_module = module.startswith("thermograd") and (
                    inner.is_dir() or inner.with_suffix(".py").is_file()
                )
                names.append(f"{module}.{alias.name}" if is_module else module)
    return [
        name.removeprefix("thermograd").removeprefix(".")
        for name in names
        if name.split(".")[0] == "thermograd"
    ]


def upward_imports(module: str, source: str) -> list[str]:
    here = place(module)
    if here is None:
        return [] if module in MARKERS else [f"{module} has no layer"]
    faults = []
    for name in imported_modules(ast.parse(source)):
        if name in MARKERS:
            continue
        there = place(name)
        if there is None:
            faults.append(f"{module} imports {name}, which has no layer")
        elif there[0] != here[0] and not there[1] < here[1]:
            faults.append(f"{module} imports {name}, which is not below it")
    return faults


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_no_module_imports_upward(file: Path):
    assert upward_imports(module_name(file), file.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("models.energy", "from thermograd.training import Trainer", "training, which is not below"),
        ("training", "def f():\n    import thermograd.run", "run, which is not below"),
        ("run", "from thermograd.evaluation import evaluate_run", "evaluation, which is not below"),
        ("streams", "from thermograd import config", "config, which is not below"),
        ("errors", "from thermograd.models import energy", "models.energy, which is not below"),
        ("surprise", "", "surprise has no layer"),
        ("run", "import thermograd.surprise", "surprise, which has no layer"),
    ],
)
def test_the_walk_finds_upward_imports(module: str, source: str, fault: str):
    (found,) = upward_imports(module, source)
    assert fault in found


HEAVY = {"matplotlib", "pandas", "torchmetrics", "h5py", "dask", "sklearn", "mlxtend", "PIL", "pooch"}
"""Needed by some commands only, so imported inside functions; `scipy.stats` takes a second as well."""


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_heavy_imports_are_inside_functions(file: Path):
    at_the_top = []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            at_the_top += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            at_the_top.append(node.module or "")
    assert [name for name in at_the_top if name.split(".")[0] in HEAVY or name == "scipy.stats"] == []
