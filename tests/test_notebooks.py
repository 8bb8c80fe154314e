"""The notebooks: what is committed is whole, and each runs from top to bottom in its fast setting.

Each notebook holds assertions of its own, so a run that ends proves more than that nothing was raised: by hand and by
package agree, estimates lie within their errors of exact values, bounds hold.
"""

import os
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

import thermograd

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = ("01_prior_model", "02_power_posteriors", "03_reading_a_study")
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|opt|usr|var|mnt)/|[A-Z]:\\\\")
LARGEST = 600_000
"""Bytes of a committed notebook, pictures and all."""


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def texts(output: Any) -> list[str]:
    """Return all of an output that a reader sees as text."""
    data = output.get("data", {})
    seen = [value for kind, value in data.items() if kind.startswith("text/")]
    return [*seen, output.get("text", ""), *output.get("traceback", [])]


def test_the_list_of_notebooks_is_whole():
    assert sorted(file.stem for file in FOLDER.glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_outputs_come_from_one_whole_run(name: str):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_machine_is_named(name: str):
    notebook = read(name)
    shown = [text for cell in notebook.cells for output in cell.get("outputs", []) for text in texts(output)]
    for text in [*shown, *(cell.source for cell in notebook.cells), str(notebook.metadata)]:
        assert not MACHINE_PATH.search(text)


def test_a_machine_path_would_be_seen():
    assert MACHINE_PATH.search("Done: /home/someone/runs/first")
    assert MACHINE_PATH.search("file '/var/folders/x1/reading'")
    assert not MACHINE_PATH.search("report/report.html, https://example.org/home/x")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
# The kernel talks to this process over sockets of this machine; the client's own warnings are not ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_runs_in_the_fast_setting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THERMOGRAD_NOTEBOOK_FAST", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the kernel's torch starts with one thread
    package = str(Path(thermograd.__file__).parent.parent)  # the one under test, wherever the kernel starts
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])))
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    here = tmp_path / "here"
    here.mkdir()
    notebook = read(name)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(here)}}
    )
    client.execute()  # raises at the first cell that does
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    assert not list(here.iterdir())  # runs go to a temporary folder, not to where the notebook is run
