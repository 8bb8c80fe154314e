"""Many runs: more than the files a process may open, a status of bounded length, and tables made when asked for."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import STUDY_TINY
from thermograd.cli import run as run_command_line
from thermograd.evaluation import records as records_module
from thermograd.study import query_study
from thermograd.study import results as results_module
from thermograd.study import status as status_module
from thermograd.study.file import parse_study
from thermograd.study.folder import make_study, open_study
from thermograd.study.status import study_status
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
    monkeypatch.setattr(results_module, "read_run", None)
    assert query_study(many, "SELECT 1 + 1 AS two")["two"][0] == 2


def test_a_table_imports_no_torch(many: Path):
    """Its import takes longer than thousands of runs."""
    code = (
        "import sys; from pathlib import Path; from thermograd.study import query_study; "
        "from thermograd.study.folder import open_study; from thermograd.study.status import study_status; "
        "query_study(sys.argv[1], 'FROM results'); study_status(open_study(Path(sys.argv[1]))); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(many)]).returncode == 0


def test_status_reads_no_more_than_it_needs(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a run that is done its status and the heads of its measurements; no attempt, no metrics, no values."""
    folder = open_study(many)
    done = replace(folder, runs=folder.runs[:1])
    file = done.run_folder(done.runs[0].identity) / "measurements.jsonl"
    heads = tmp_path / "measurements.jsonl"
    ends = ', "settings": '
    heads.write_text(
        "".join(line.partition(ends)[0] + ends + "}\n" for line in file.read_text().splitlines())
    )
    monkeypatch.setattr(records_module, "FILE", str(heads))
    for module, name in ((status_module, "_newest"), (status_module, "read_attempt")):
        monkeypatch.setattr(module, name, None)
    assert study_status(done)["counts"]["done"] == 1


def test_the_status_of_many_runs_is_short(many: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command_line(["study", "status", str(many)]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 12
    assert "11 done" in shown
    assert run_command_line(["study", "status", str(many), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == NUM_RUNS
