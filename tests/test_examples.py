"""The examples: README shows the files as they are, and each runs."""

import ast
import os
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FAST = {
    '"num_epochs": 5': '"num_epochs": 1',
    "num_epochs=10": "num_epochs=1",
    "to_tensor(1000)": "to_tensor(100)",
}


def code_of(file: Path) -> str:
    """Return a file without its docstring."""
    source = file.read_text()
    docstring = ast.parse(source).body[0]
    return "\n".join(source.splitlines()[docstring.end_lineno or 0 :]).strip()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_readme_shows_the_file(file: Path):
    assert f"```python\n{code_of(file)}\n```" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_short(file: Path):
    assert len(file.read_text().splitlines()) <= 15


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_imports_nothing_else_of_the_package(file: Path):
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name for name in imported if name and name.split(".")[0] == "thermograd"} == {"thermograd"}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = file.read_text()
    for slow, fast in FAST.items():
        source = source.replace(slow, fast)
    (tmp_path / file.name).write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "MPLBACKEND", "Agg")
    runpy.run_path(file.name, run_name="__main__")
    assert list(tmp_path.rglob("*.png"))
