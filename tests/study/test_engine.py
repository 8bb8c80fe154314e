"""What the engine does when processes, workers and jobs die: bounded, told, and without agreeing clocks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from thermograd.errors import InputError, RunError
from thermograd.study import clusters, engine
from thermograd.study.engine import Patience, perform, run_study
from thermograd.study.jobs import MAX_TRIES, Jobs, tail, watched_job


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a study of two runs that exists in memory alone; a run is done once its folder is made."""
    runs = tuple(
        SimpleNamespace(identity=name, arm="a", seed=i, evaluations=i) for i, name in enumerate("xy")
    )
    study = SimpleNamespace()
    found = SimpleNamespace(
        path=tmp_path,
        study=study,
        runs=runs,
        run_folder=lambda identity: tmp_path / "runs" / identity,
        attempts_folder=lambda identity: tmp_path / "attempts" / identity,
    )
    monkeypatch.setattr(engine, "open_study", lambda path: found)
    monkeypatch.setattr(engine, "is_done", lambda path: path.exists())
    monkeypatch.setattr(
        engine, "needs_work", lambda folder, run: not folder.run_folder(run.identity).exists()
    )
    return found


# --- the process of a run ---


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        (-9, "died", "it did not begin: its process was killed by signal 9 (SIGKILL)"),
        (None, "died", "it did not begin: its process made no progress for 5 s"),
        (1, "failed", "it did not begin: its process ended with code 1"),
    ],
)
def test_an_end_before_the_claim_is_a_death_unless_the_process_says_so(
    code: int | None, state: str, words: str, folder: Any, monkeypatch: pytest.MonkeyPatch
):
    attempts = folder.attempts_folder("x")
    attempts.mkdir(parents=True)
    (attempts / "log.txt").write_text("one\ntwo\nthree\nImportError: no torch\n")
    monkeypatch.setattr(engine, "_run_process", lambda *arguments: code)
    found, cause = perform(str(folder.path), "x", 0, 5.0)
    assert found == state
    assert cause.startswith(words)
    assert cause.endswith("log.txt: two | three | ImportError: no torch")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("work", "is_progress"),
    [
        ("import time\nwhile True: time.sleep(0.05)", False),
        ("while True: sum(range(10_000))", True),
        ("import sys, time\nwhile True: open(sys.argv[1], 'a').write('x'); time.sleep(0.1)", True),
    ],
    ids=["idle", "computes", "writes"],
)
def test_progress_is_computing_or_writing(
    work: str, is_progress: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine._Progress, "WINDOW", 0.3)
    monkeypatch.setattr(engine._Progress, "LEAST", 0.05)
    file = tmp_path / "file"
    file.write_text("")
    child = subprocess.Popen([sys.executable, "-c", work, str(file)])
    try:
        time.sleep(0.5)  # starting Python is computing as well
        progress = engine._Progress(child.pid, [file])
        longest, end = 0.0, time.monotonic() + 1.5
        while time.monotonic() < end:
            longest = max(longest, progress.seconds_without())
            time.sleep(0.02)
        assert (longest < 1.2) == is_progress
    finally:
        child.kill()
        child.wait()


def test_a_stopped_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SIGSTOP is what a frozen node or a debugger does; the lifeline alone would wait for ever."""
    config = {"compute": {"num_threads": 1}}
    found = SimpleNamespace(
        path=tmp_path,
        run=lambda identity: SimpleNamespace(config=config),
        run_folder=lambda identity: tmp_path / "run",
        attempts_folder=lambda identity: tmp_path / "attempts",
    )
    monkeypatch.setattr(engine._Progress, "WINDOW", 0.1)
    original = subprocess.Popen

    def sleeper(words: list[str], **options: Any) -> Any:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
        return original([sys.executable, "-c", code], **options)

    monkeypatch.setattr(engine.subprocess, "Popen", sleeper)
    assert engine._run_process(found, "x", 0, 1.0) is None  # type: ignore[arg-type]


# --- workers ---


class FakeClient:
    """A scheduler that answers each task with the next answer of a list, if there is a worker."""

    def __init__(self, answers: list[Any], workers: dict[str, Any] | None = None):
        self.answers, self.workers, self.status, self.count = answers, workers or {}, "running", 0

    def scheduler_info(self) -> dict[str, Any]:
        return {"workers": self.workers}

    def submit(self, function: Any, *words: Any, **options: Any) -> Any:
        self.count += 1
        answer = self.answers.pop(0) if self.answers else None
        future = SimpleNamespace(key=f"k{self.count}", status="error", exception=lambda: answer)
        if isinstance(answer, tuple):
            future = SimpleNamespace(key=f"k{self.count}", status="finished", result=lambda: answer)
        future.add_done_callback = lambda put: answer is not None and put(future)
        return future


def test_deaths_and_failures_are_counted_apart_and_bounded(folder: Any):
    answers = [
        ("died", "killed"),
        ("failed", "exploded"),
        *[("died", "killed")] * 8,
        ("failed", "exploded"),
        None,
    ]
    folder.run_folder("y").mkdir(parents=True)
    events: list[str] = []
    causes = run_study(folder, FakeClient(answers, {"w": {}}), on_event=events.append)
    assert causes == {"x": "exploded"}
    assert [event.split(":")[0] for event in events[1:]] == ["again"] * 10 + ["failed"]
    causes = run_study(folder, FakeClient([("died", "killed")] * 20, {"w": {}}))
    assert causes == {"x": "killed"}


def test_a_study_without_workers_is_told_and_ends(folder: Any):
    events: list[str] = []
    patience = Patience(without_worker=3.0, told_after=0.5)
    with pytest.raises(RunError, match="No worker came in 3 s; what was done is kept"):
        run_study(folder, FakeClient([]), patience=patience, on_event=events.append)
    assert events[1] == "Waiting for the first worker."
    assert len([event for event in events if event.startswith("No worker for 1 s")]) == 1


def test_a_scheduler_that_is_lost_ends_the_study(folder: Any):
    client = FakeClient([])
    client.status = "closed"
    with pytest.raises(RunError, match="The scheduler was lost; the same command again goes on"):
        run_study(folder, client)


# --- jobs ---


class FakeJob:
    """A job of dask-jobqueue."""

    submit_command = "sbatch"

    def __init__(self, number: int, folder: Path):
        self.job_id, self.refused, self.status = str(number), None, None
        self.log, self.ended = folder / f"{number}.log", folder / f"{number}.ended"

    async def close(self) -> None:
        raise RuntimeError("it is gone")


class FakeCluster:
    """A cluster whose jobs end as a test says."""

    job_cls = FakeJob

    def __init__(self, folder: Path, num: int = 1):
        self.folder, self.count = folder, 0
        self.worker_spec: dict[str, Any] = {f"w-{i}": {} for i in range(num)}
        self.workers: dict[str, FakeJob] = {}
        self.scheduler_info: dict[str, Any] = {"workers": {}}
        self.scale(num)

    def scale(self, num: int) -> None:
        for name in self.worker_spec:
            if name not in self.workers:
                self.count += 1
                self.workers[name] = FakeJob(self.count, self.folder)

    def sync(self, function: Callable[..., Any], *words: Any) -> None:
        import asyncio

        asyncio.run(function(*words))


def look(jobs: Jobs, events: list[str]) -> None:
    jobs._next_look = 0.0
    jobs.watch(events.append)


@pytest.fixture
def no_queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_queue")
def test_a_job_that_lost_its_worker_is_asked_for_again_without_bound(tmp_path: Path):
    cluster, events = FakeCluster(tmp_path), []
    jobs = Jobs(cluster)
    for number in range(1, 3 * MAX_TRIES):
        assert cluster.workers["w-0"].job_id == str(number)
        cluster.scheduler_info["workers"] = {"address": {"name": "w-0"}}
        look(jobs, events)
        cluster.scheduler_info["workers"] = {}
        cluster.workers["w-0"].ended.write_text("0\n")
        look(jobs, events)
        assert events == [f"job {number} of w-0 was lost (exit code 0); it is asked for again."]
        events.clear()


@pytest.mark.usefixtures("no_queue")
def test_jobs_that_end_without_a_worker_are_tried_a_bounded_number_of_times(tmp_path: Path):
    cluster, events = FakeCluster(tmp_path, num=2), []
    jobs = Jobs(cluster)
    cluster.scheduler_info["workers"] = {"address": {"name": "w-1"}}  # the other one has a worker
    for number in range(MAX_TRIES):
        job = cluster.workers["w-0"]
        job.ended.write_text("127\n")
        job.log.write_text("bash: python: not found\n")
        look(jobs, events)
        assert len(events) == number + 1
        assert (
            events[-1] == f"job {job.job_id} ended without a worker (exit code 127): bash: python: not found"
        )
    assert set(cluster.worker_spec) == {"w-1"}
    cluster.scheduler_info["workers"] = {}
    for _ in range(MAX_TRIES):  # the first had a worker, so only two of these ended in vain
        cluster.workers["w-1"].ended.write_text("1\n")
        look(jobs, events)
    cluster.workers["w-1"].ended.write_text("1\n")
    with pytest.raises(RunError, match=r"No job gave a worker in 3 tries each; the last: job .* left no log"):
        look(jobs, events)


@pytest.mark.parametrize(("listed", "is_lost"), [("1 PENDING Resources", False), ("", True), (None, False)])
def test_a_job_that_is_not_in_the_queue_any_more_is_lost(
    listed: str | None, is_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = "exit 1" if listed is None else f"echo '{listed}'"
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    cluster, events = FakeCluster(tmp_path), []
    jobs = Jobs(cluster)
    look(jobs, events)
    assert events == []  # one look is not enough: it may have been accepted this moment
    look(jobs, events)
    assert bool(events) == is_lost
    if listed:
        assert jobs.describe() == "job 1 PENDING Resources"


def test_a_job_leaves_its_log_and_its_exit_code_whatever_its_folder_is_called(tmp_path: Path):
    class Job:
        def __init__(self, name: str):
            self.name, self._job_script_prologue = name, ["false"]

    folder = tmp_path / "a b's $x"
    folder.mkdir()
    job = watched_job(Job, folder)("w-0")
    script = "\n".join([*job._job_script_prologue, "echo said", "exit 7"])
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 7
    assert tail(job.log) == "said"
    assert job.ended.read_text() == "7\n"
    assert watched_job(Job, folder)("w-0").log != job.log


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"security": True}),
        ({"security": True}, {"security": True}),
        ({"security": False}, {}),
    ],
)
def test_schedulers_of_jobs_speak_tls_unless_a_plain_one_is_asked_for(
    options: dict[str, Any], expected: dict[str, Any], tmp_path: Path
):
    queue = SimpleNamespace(job_cls=FakeJob, __name__="SLURMCluster")
    safe = clusters._safe(queue, options, tmp_path / "jobs")
    assert {"security": safe["security"]} if "security" in safe else expected == {}
    assert safe["scheduler_options"] == {"dashboard_address": "127.0.0.1:0"}
    if expected:
        keys = Path(safe["shared_temp_directory"])
        assert keys.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("host", "is_safe"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_a_local_cluster_that_others_can_reach_speaks_tls(host: str, is_safe: bool, tmp_path: Path):
    local = SimpleNamespace(__name__="LocalCluster")
    assert ("security" in clusters._safe(local, {"host": host}, tmp_path)) == is_safe


def test_tls_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    queue = SimpleNamespace(job_cls=FakeJob, __name__="SLURMCluster")
    with pytest.raises(InputError, match="pip install cryptography, or say `security: false`"):
        clusters._safe(queue, {}, tmp_path / "jobs")
