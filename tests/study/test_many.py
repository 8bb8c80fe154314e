"""Many runs: more than the files a process may open, a status of bounded length, and tables made when asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import STUDY_TINY
from thermograd.cli import run as run_command_line
from thermograd.study import query_study
from thermograd.study import results as results_module
from thermograd.study.file import parse_study
from thermograd.study.folder import make_study
from thermograd.study.work import work

NUM_RUNS = 1100
"""More than the 1,024 files that most systems let a process open."""


@pytest.fixture(scope="module")
def many(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study whose runs are copies of the text files of one."""
    path = tmp_path_factory.mktemp("many") / "study"
    described: dict[str, Any] = {
        "name": "many",
        "preset": "digits",
        "overrides": {
            **STUDY_TINY,
            "training.num_epochs": 1,
            "data.path": str(images_file),
            "data.name": "smooth",
        },
        "seeds": 1,
        "arms": {"vanilla": {"ready": "vanilla"}},
        "measure": {
            "every": "none",
            "extractor": "none",
            "num_samples": 20,
            "num_batches": 3,
            "num_repeats": 2,
        },
    }
    folder = make_study(parse_study(described), path)
    (run,) = folder.runs
    work(folder, run.identity)
    whole = json.loads((path / "study.json").read_text())
    first = folder.run_folder(run.identity)
    for i in range(1, NUM_RUNS):
        whole["runs"].append({**whole["runs"][0], "identity": f"{i:012x}", "folder": f"run-{i}", "seed": i})
        other = path / "runs" / f"run-{i}"
        other.mkdir()
        for name in ("status.json", "metrics.jsonl"):
            (other / name).symlink_to(first / name)
        if i % 100 == 0:
            (other / "measurements.jsonl").symlink_to(first / "measurements.jsonl")
    (path / "study.json").write_text(json.dumps(whole))
    return path


def test_sql_reads_more_runs_than_files_may_be_open(many: Path):
    (first,) = query_study(
        many, "SELECT count(DISTINCT run) AS runs, max(step) AS step FROM metrics"
    ).to_dict(orient="records")
    assert first == {"runs": NUM_RUNS, "step": 4}
    assert query_study(many, "SELECT count(DISTINCT run) AS runs FROM results")["runs"][0] == 11


def test_tables_are_made_when_they_are_asked_for(many: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results_module, "read_runs", None)
    assert query_study(many, "SELECT 1 + 1 AS two")["two"][0] == 2


def test_the_status_of_many_runs_is_short(many: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command_line(["study", "status", str(many)]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 12
    assert "11 done" in shown
    assert run_command_line(["study", "status", str(many), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == NUM_RUNS
