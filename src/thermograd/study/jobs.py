"""Jobs of a batch queue: those that are lost are asked for again, and those that end without a worker are reported.

Each job writes what it prints to `jobs/NAME.log` in the study folder and, when its script ends by itself, its exit code
to `jobs/NAME.ended`. One that was cancelled or had no time left cannot; the queue's own list tells that it is gone.
"""

import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from thermograd.errors import RunError, failure, one_line

OnEvent = Callable[[str], None]

EVERY = 5.0
"""Seconds between looks at the jobs."""
MAX_TRIES = 3
"""Times in a row that a job may end before its worker came."""
LISTS = {"sbatch": ["squeue", "--noheader", "--format=%A %T %r"], "qsub": ["qstat"]}
"""Command that submits a job -> the one that lists jobs, each line beginning with a job's number."""


def watched_job(job_class: Any, folder: Path) -> Any:
    """Return a class of jobs that leave a trace in a folder: what they printed, and how their script ended."""

    from distributed.core import Status

    class WatchedJob(job_class):
        """A job that leaves a trace."""

        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            # A name of its own: a job that is asked for again has the same name for Dask.
            trace = folder / f"{self.name}-{secrets.token_hex(4)}"
            self.log, self.ended = trace.with_suffix(".log"), trace.with_suffix(".ended")
            self.refused: str | None = None
            at_the_end = f"echo $? > {shlex.quote(str(self.ended))}"
            self._job_script_prologue = [
                f"exec > {shlex.quote(str(self.log))} 2>&1",
                f"trap {shlex.quote(at_the_end)} EXIT",
                *(getattr(self, "_job_script_prologue", None) or []),
            ]

        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                self.refused = failure(error)
                raise

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed  # Dask looks at it when the cluster is closed

    return WatchedJob


class Workers:
    """What is done for the workers of a study while it runs: nothing, where they are not jobs of a queue."""

    def watch(self, on_event: OnEvent) -> None:
        """Look at the workers now and then."""

    def describe(self) -> str:
        """Return what is known of workers that have not come yet."""
        return ""


class Jobs(Workers):
    """The jobs of a cluster of dask-jobqueue."""

    def __init__(self, cluster: Any):
        self.cluster = cluster
        self._tries = Counter[str]()
        self._missing: set[str] = set()
        self._next_look = 0.0
        self._had_worker: set[Path] = set()

    def watch(self, on_event: OnEvent) -> None:
        """Look at the jobs now and then; ask again for those that were lost.

        Raises:
            RunError: no job is left: each ended `MAX_TRIES` times in a row before its worker came.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + EVERY
        lost = self._lost()
        again, last = [], ""
        for name, job, how in lost:
            if job.log in self._had_worker:
                on_event(f"job {job.job_id} of {name} was lost ({how}); it is asked for again.")
                self._tries[name] = 0
            else:
                self._tries[name] += 1
                last = f"job {job.job_id or name} ended without a worker ({how}): {tail(job.log)}"
                on_event(last)
            if self._tries[name] < MAX_TRIES:
                again.append(name)
            else:
                self.cluster.worker_spec.pop(name, None)
        if lost:
            self.cluster.sync(self._drop, [name for name, _, _ in lost])
        if lost and not self.cluster.worker_spec:
            raise RunError(f"No job gave a worker in {MAX_TRIES} tries each; the last: {last}")
        if again or set(self.cluster.worker_spec) - set(self.cluster.workers):
            self.cluster.scale(len(self.cluster.worker_spec))  # opens what is missing

    def describe(self) -> str:
        """Return what the queue says of the jobs, as far as it says anything."""
        known = self._queue() or {}
        jobs = [job.job_id for job in self.cluster.workers.values() if job.job_id]
        return ", ".join(f"job {number} {known.get(_number(number), '')}".strip() for number in jobs[:5])

    def _lost(self) -> list[tuple[str, Any, str]]:
        """Return (name, job, how it ended) of jobs that ended and whose worker is not there."""
        present = {str(each["name"]) for each in self.cluster.scheduler_info["workers"].values()}
        queue: dict[str, str] | None = None
        is_asked = False
        lost, missing = [], set()
        for name, job in list(self.cluster.workers.items()):
            group = self.cluster.worker_spec.get(name, {}).get("group", [""])
            if any(f"{name}{suffix}" in present for suffix in group):
                self._had_worker.add(job.log)
                self._tries[name] = 0
            elif job.refused is not None:
                lost.append((name, job, f"it was refused: {one_line(job.refused)}"))
            elif job.ended.exists():
                lost.append((name, job, f"exit code {job.ended.read_text().strip() or 'unknown'}"))
            elif job.job_id is not None:
                if not is_asked:
                    queue, is_asked = self._queue(), True
                if queue is not None and _number(job.job_id) not in queue:
                    missing.add(job.job_id)
                    if job.job_id in self._missing:  # twice: a job is listed a moment after it was accepted
                        lost.append((name, job, "it is not in the queue any more"))
        self._missing = missing
        return lost

    def _queue(self) -> dict[str, str] | None:
        """Return the user's jobs as the queue lists them, number -> state; None where it cannot be asked."""
        submit = shlex.split(self.cluster.job_cls.submit_command)[0]
        command = LISTS.get(os.path.basename(submit))
        if command is None or shutil.which(command[0]) is None:
            return None
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if asked.returncode:
            return None  # the queue does not answer for a moment
        lines = [line.split(maxsplit=1) for line in asked.stdout.splitlines() if line.strip()]
        return {_number(words[0]): words[1] if len(words) > 1 else "" for words in lines}

    async def _drop(self, names: list[str]) -> None:
        for name in names:
            job = self.cluster.workers.pop(name, None)
            if job is not None:
                with suppress(Exception):  # the job is gone, and cancelling it may fail
                    await job.close()


def tail(log: Path, num_lines: int = 3) -> str:
    """Return the last lines of a log in one line."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return "it left no log"
    last = " | ".join(line.strip() for line in lines if line.strip()) or "its log is empty"
    return one_line(" | ".join(last.split(" | ")[-num_lines:]))


def _number(job_id: str) -> str:
    """Return a job's number without the name of its server."""
    return job_id.split(".")[0]
