"""Runs dealt out to Dask workers: each run a process of its own, with bounded retries.

Dask only says who does what next. What was done is on the file system: a task asks the run's folder first, so that
losing a worker, the scheduler or this process loses no more than the steps since the last checkpoint, and starting the
same command again goes on. A worker holds a pipe to the process of its run; when it dies, the pipe closes and the
process stops.
"""

import os
import queue
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thermograd.errors import InputError, RunError, failure
from thermograd.study.attempts import read_attempts
from thermograd.study.folder import StudyFolder, open_study
from thermograd.study.jobs import OnEvent, Workers, tail
from thermograd.study.status import is_done, needs_work

MAX_DEATHS = 10
"""Times that a run's process or worker may die, of whatever outside cause, before the run counts as failed."""


@dataclass(frozen=True)
class Patience:
    """How long a study waits, in seconds.

    Attributes:
        without_progress: until a process that neither computes nor writes counts as dead.
        without_worker: until a study without any worker ends; queues can be long.
        told_after: until it is told that no worker is there.
    """

    without_progress: float = 600.0
    without_worker: float = 86_400.0
    told_after: float = 60.0


def run_study(
    folder: StudyFolder,
    client: Any,
    *,
    max_attempts: int = 2,
    num_gpus: int = 0,
    on_event: OnEvent = lambda line: None,
    on_look: Callable[[], None] = lambda: None,
    workers: Workers | None = None,
    patience: Patience | None = None,
) -> dict[str, str]:
    """Bring every run of a study to its end.

    Args:
        folder: the study.
        client: a Dask client.
        max_attempts: how often a run may fail before it is given up.
        num_gpus: GPUs that local workers share out among themselves; 0 leaves the choice to the cluster.
        on_event: called with a line for the user.
        on_look: called about once a second.
        workers: asked about once a second to look after themselves.
        patience: how long to wait; None for the defaults.

    Returns:
        The cause of each run that failed for good, by its identity.

    Raises:
        RunError: the scheduler was lost, or no worker came.
    """
    patience, workers = patience or Patience(), workers or Workers()
    todo = [run for run in folder.runs if needs_work(folder, run)]
    on_event(f"{len(folder.runs)} runs, {len(folder.runs) - len(todo)} of them done before.")
    failures, deaths, causes = Counter[str](), Counter[str](), dict[str, str]()
    ranks = {seed: rank for rank, seed in enumerate(dict.fromkeys(run.seed for run in folder.runs))}
    names = {run.identity: f"{run.arm}, seed {run.seed} ({run.identity})" for run in folder.runs}
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    at_work: dict[str, tuple[str, Any]] = {}

    def submit(identity: str) -> None:
        words = (str(folder.path.resolve()), identity, num_gpus, patience.without_progress)
        future = client.submit(perform, *words, pure=False, retries=0)
        at_work[future.key] = identity, future
        future.add_done_callback(ended.put)

    # Seed by seed, so that a study that is stopped can be compared; of one seed those that cost most come first.
    for run in sorted(todo, key=lambda run: (ranks[run.seed], -run.evaluations)):
        submit(run.identity)
    num_done = len(folder.runs) - len(todo)
    waiting = _Waiting(client, workers, patience, on_event)
    while at_work:
        workers.watch(on_event)
        waiting.check()
        on_look()
        try:
            future = ended.get(timeout=1.0)
        except queue.Empty:
            continue
        identity, _ = at_work.pop(future.key)
        state, cause = _outcome(future)
        if state == "done":
            num_done += 1
            on_event(f"done {num_done}/{len(folder.runs)}: {names[identity]}")
            continue
        (failures if state == "failed" else deaths)[identity] += 1
        if failures[identity] < max_attempts and deaths[identity] < MAX_DEATHS:
            on_event(f"again: {names[identity]}: {cause}")
            submit(identity)
        else:
            causes[identity] = cause
            on_event(f"failed: {names[identity]}: {cause}")
    return causes


class _Waiting:
    """Tells that no worker is there, and ends a study that waited too long for one."""

    def __init__(self, client: Any, workers: Workers, patience: Patience, on_event: OnEvent):
        self.workers, self.client, self.patience, self.on_event = workers, client, patience, on_event
        self._alone_since: float | None = None
        self._is_told = self._was_told_first = False
        self._next_look = 0.0

    def check(self) -> None:
        """Look for workers, at most once a second.

        Raises:
            RunError: the scheduler was lost, or no worker came within the patience.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + 1.0
        if self.client.status in ("closing", "closed"):
            raise RunError("The scheduler was lost; the same command again goes on.")
        if self.client.scheduler_info()["workers"]:
            self._alone_since, self._is_told = None, False
            return
        if self._alone_since is None:
            self._alone_since = now
            if not self._was_told_first:
                self.on_event("Waiting for the first worker.")
            self._was_told_first = True
        waited = now - self._alone_since
        if waited > self.patience.without_worker:
            raise RunError(
                f"No worker came in {waited:.0f} s; what was done is kept, and the same command again goes on."
            )
        if waited > self.patience.told_after and not self._is_told:
            self._is_told = True
            queued = self.workers.describe()
            self.on_event(
                f"No worker for {waited:.0f} s{f' ({queued})' if queued else ''}; the study waits for one "
                f"{self.patience.without_worker / 3600:.1f} hours at most."
            )


def _outcome(future: Any) -> tuple[str, str]:
    """Return ("done" | "failed" | "died", cause) of a task."""
    if future.status == "finished":
        return future.result()
    if future.status == "cancelled":
        return "died", "the scheduler forgot it"
    return "died", f"the worker was lost: {failure(future.exception())}"


def perform(path: str, identity: str, num_gpus: int, without_progress: float) -> tuple[str, str]:
    """Do one run in a process of its own; called by a Dask worker.

    Where another process is still at work on the run, e.g. one whose worker was killed this moment, wait for its end.

    Returns:
        ("done" | "failed" | "died", cause); a process that is killed before it could claim the run has died.
    """
    folder = open_study(Path(path))
    attempts, run_folder = folder.attempts_folder(identity), folder.run_folder(identity)
    while True:
        try:
            if is_done(run_folder):
                return "done", ""
        except InputError as error:
            return "failed", str(error)
        before = read_attempts(attempts)
        if before and before[-1].is_alive():
            time.sleep(0.5)
            continue
        code = _run_process(folder, identity, num_gpus, without_progress)
        after = read_attempts(attempts)
        how = f"its process made no progress for {without_progress:.0f} s" if code is None else _ending(code)
        if len(after) == len(before):
            log = attempts / "log.txt"
            state = "failed" if code is not None and code > 0 else "died"
            return state, f"it did not begin: {how}, see {log}: {tail(log)}"
        last = after[-1]
        if last.is_alive():
            continue  # another was quicker to claim it
        if last.ended in ("done", "failed"):
            return last.ended, last.facts.get("cause", "")
        return "died", "it was stopped" if last.ended else how


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    return f"its process was killed by signal {-code} ({signal.Signals(-code).name})"


def _run_process(folder: StudyFolder, identity: str, num_gpus: int, without_progress: float) -> int | None:
    """Start the process of a run, hold its lifeline, and return its exit code; None where it was killed as stuck."""
    threads = folder.run(identity).config["compute"]["num_threads"]
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    if num_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str(_worker_number() % num_gpus)
    words = ["-m", "thermograd", "study", "work", str(folder.path), identity]
    attempts = folder.attempts_folder(identity)
    attempts.mkdir(parents=True, exist_ok=True)
    with (attempts / "log.txt").open("ab") as log:
        # A session of its own: Ctrl-C in the terminal reaches the study, which lets go of the lifeline.
        child = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        with child:
            progress = _Progress(
                child.pid, [attempts / "log.txt", folder.run_folder(identity) / "metrics.jsonl"]
            )
            code = child.poll()
            while code is None:
                time.sleep(0.2)  # Popen.wait would close the lifeline
                code = child.poll()
                if code is None and progress.seconds_without() > without_progress:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
                    return None
    return code


class _Progress:
    """Tells how long a process has neither computed nor written; a stopped or deadlocked one does neither."""

    LEAST = 0.02
    """Share of a core that counts as computing; the thread of the heartbeat alone uses far less."""
    WINDOW = 5.0
    """Seconds over which the use of the processor is counted."""

    def __init__(self, pid: int, files: list[Path]):
        self.pid, self.files = pid, files
        self._last = self._since = time.monotonic()
        self._seen = self._look()

    def seconds_without(self) -> float:
        """Return the seconds since the process was last seen to make progress."""
        now = time.monotonic()
        if now - self._since >= self.WINDOW:
            used, written = self._look()
            before, written_before = self._seen
            busy = used is None or before is None or used - before > self.LEAST * (now - self._since)
            if busy or written != written_before:
                self._last = now
            self._since, self._seen = now, (used, written)
        return now - self._last

    def _look(self) -> tuple[float | None, list[tuple[int, int]]]:
        """Return the processor's seconds, None where the system does not tell, and the state of the files."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            used: float | None = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            used = None
        stats = [file.stat() for file in self.files if file.exists()]
        return used, [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _worker_number() -> int:
    from distributed import get_worker

    name = get_worker().name
    return name if isinstance(name, int) else 0
