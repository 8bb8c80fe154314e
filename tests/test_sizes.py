"""Small pieces: public functions take few parameters, and no module grows long."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import thermograd

SOURCE = Path(thermograd.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
MOST_PARAMETERS, MOST_LINES = 10, 350


def crowded(source: str) -> Iterator[str]:
    """Yield every public function or method, and every `__init__`, with more parameters than `MOST_PARAMETERS`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_") and node.name != "__init__":
            continue
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        number = sum(each.arg not in ("self", "cls") for each in given)
        if number > MOST_PARAMETERS:
            yield f"{node.name} takes {number}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_modules_are_short_and_public_functions_take_few_parameters(file: Path):
    source = file.read_text()
    assert list(crowded(source)) == []
    assert len(source.splitlines()) <= MOST_LINES


def test_the_count_finds_a_crowded_function():
    names = ", ".join(f"p{i}" for i in range(9))
    assert list(crowded(f"def f({names}, *, a, b): ...")) == ["f takes 11"]
    assert list(crowded(f"class A:\n    def m(self, {names}, a): ...")) == []
    assert list(crowded(f"def _f({names}, a, b, c): ...")) == []
