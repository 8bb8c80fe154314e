"""A real Slurm (`.ci/slurm` starts one): a study runs, loses its jobs in the middle, and ends by itself."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import STUDY_TINY
from thermograd.study import load_study
from thermograd.study.attempts import read_attempts
from thermograd.study.file import parse_study
from thermograd.study.folder import make_study, open_study
from thermograd.study.results import TIME_COLUMNS
from thermograd.study.work import work


def slurm_is_missing() -> str | None:
    """Return why no Slurm can be used here, or None."""
    for command in ("sbatch", "squeue", "scancel", "sinfo"):
        if shutil.which(command) is None:
            return f"no {command} on this machine; .ci/slurm installs it where apt-get may"
    try:
        asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return "sinfo does not answer"
    return None if asked.returncode == 0 and asked.stdout else f"no Slurm answers: {asked.stderr.strip()}"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing := bool(reason := slurm_is_missing()), reason=reason or "it is there"),
]


def described(images_file: Path, **overrides: Any) -> dict[str, Any]:
    quick = {"prior_chains.num_steps": 10, "training.num_epochs": 60, "training.checkpoint_every": 5}
    return {
        "name": "queue",
        "preset": "digits",
        "overrides": {
            **STUDY_TINY,
            **quick,
            **overrides,
            "data.path": str(images_file),
            "data.name": "smooth",
        },
        "seeds": 2,
        "arms": {"vanilla": {"ready": "vanilla"}},
        "measure": {
            "every": "none",
            "extractor": "none",
            "num_samples": 20,
            "num_batches": 3,
            "num_repeats": 2,
        },
    }


def start(folder: Path, study: dict[str, Any], options: dict[str, Any], *words: str) -> subprocess.Popen[str]:
    """Start a study on Slurm in a folder whose name a shell would take apart."""
    folder.mkdir()
    (folder / "study.yaml").write_text(json.dumps(study))
    options = {"cores": 1, "memory": "1GB", "walltime": "00:10:00", "local_directory": str(folder), **options}
    cluster = {"class": "SLURMCluster", "num_workers": 1, "options": options}
    (folder / "cluster.yaml").write_text(json.dumps(cluster))
    command = [sys.executable, "-m", "thermograd", "study", "run", "study.yaml", "--out", "out"]
    return subprocess.Popen(
        [*command, "--cluster", "cluster.yaml", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"USER": "root"},
    )


def jobs() -> list[str]:
    asked = subprocess.run(
        ["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, check=True
    )
    return asked.stdout.split()


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 90) -> Any:
    end = time.time() + seconds
    while time.time() < end:
        assert process.poll() is None, process.communicate()
        if value := found():
            return value
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"waited in vain: {process.communicate()}")


def test_a_study_whose_jobs_are_cancelled_in_the_middle_ends_by_itself(images_file: Path, tmp_path: Path):
    folder, study = tmp_path / "my study's $folder", described(images_file)
    process = start(folder, study, {})
    try:
        wait_for(lambda: list(folder.glob("out/runs/*/checkpoints/step_*")), process)
        cancelled = jobs()
        subprocess.run(["scancel", *cancelled], check=True)
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert len(cancelled) == 1
    assert "it is asked for again" in errors or "ended without a worker" in errors
    assert jobs() == []
    opened = open_study(folder / "out")
    endings = [
        [attempt.ended for attempt in read_attempts(opened.attempts_folder(run.identity))]
        for run in opened.runs
    ]
    assert all(ending[-1] == "done" for ending in endings)
    assert sum(map(len, endings)) > len(endings)  # the cancelled job was at work on one
    calm = make_study(parse_study(study), tmp_path / "calm")
    for run in calm.runs:
        work(calm, run.identity)
    time_columns = list(TIME_COLUMNS)
    disturbed, undisturbed = (
        load_study(each).drop(columns=time_columns) for each in (opened.path, calm.path)
    )
    assert disturbed.equals(undisturbed)


def test_jobs_that_end_without_a_worker_are_told_with_their_log_and_end_the_study(
    images_file: Path, tmp_path: Path
):
    options = {"job_script_prologue": ["echo no such module: torch", "exit 3"]}
    process = start(tmp_path / "study", described(images_file), options)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert (
        errors.count("ended without a worker (exit code 3): no such module: torch") == 4
    )  # three, and the end
    assert "No job gave a worker in 3 tries each" in errors
    assert jobs() == []


def test_a_queue_that_never_starts_ends_the_study(images_file: Path, tmp_path: Path):
    options = {"job_extra_directives": ["--hold"]}
    process = start(tmp_path / "study", described(images_file), options, "--wait", "12")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "No worker came in 1" in errors
    assert jobs() == []


def test_a_job_that_the_queue_refuses_is_told(images_file: Path, tmp_path: Path):
    process = start(tmp_path / "study", described(images_file), {"queue": "nowhere"})
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "invalid partition" in errors
