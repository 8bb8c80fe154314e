"""Runs dealt out to Dask workers: each run a process of its own, with bounded retries.

Dask only says who does what next. What was done is on the file system: a task asks the run's folder first, so that
losing a worker, the scheduler or this process loses no more than the steps since the last checkpoint, and starting the
same command again goes on. A worker holds a pipe to the process of its run; when it dies, the pipe closes and the
process stops.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from thermograd.errors import InputError, RunError, nearest
from thermograd.files import read_yaml
from thermograd.study.attempts import read_attempts
from thermograd.study.folder import StudyFolder, is_done, needs_work, open_study

CLUSTERS = {
    "LocalCluster": ("distributed", "dask[distributed]"),
    "SLURMCluster": ("dask_jobqueue", "dask-jobqueue"),
    "PBSCluster": ("dask_jobqueue", "dask-jobqueue"),
    "KubeCluster": ("dask_kubernetes.operator", "dask-kubernetes"),
}
"""Cluster class -> (module, what to install); the class may be written with its module."""
MAX_DEATHS = 10
"""Times that a run's process or worker may die, of whatever outside cause, before the run counts as failed."""

OnEvent = Callable[[str], None]


def run_study(
    folder: StudyFolder,
    client: Any,
    *,
    max_attempts: int = 2,
    num_gpus: int = 0,
    on_event: OnEvent = lambda line: None,
) -> dict[str, str]:
    """Bring every run of a study to its end.

    Args:
        folder: the study.
        client: a Dask client.
        max_attempts: times that a run may fail of itself.
        num_gpus: GPUs that local workers share out among themselves; 0 leaves the choice to the cluster.
        on_event: called with a line for the user.

    Returns:
        The cause of each run that failed for good, by its identity.
    """
    from distributed import as_completed

    todo = [run for run in folder.runs if needs_work(folder, run)]
    on_event(f"{len(folder.runs)} runs, {len(folder.runs) - len(todo)} of them done before.")
    failures, deaths, causes = Counter[str](), Counter[str](), dict[str, str]()
    names = {run.identity: f"{run.arm}, seed {run.seed} ({run.identity})" for run in folder.runs}

    def submit(identity: str) -> Any:
        future = client.submit(perform, str(folder.path.resolve()), identity, num_gpus, pure=False, retries=0)
        identities[future.key] = identity
        return future

    identities: dict[str, str] = {}
    # Dear ones first, so that the last worker to finish is not long alone.
    todo.sort(key=lambda run: -run.evaluations)
    queue = as_completed([submit(run.identity) for run in todo])
    num_done = len(folder.runs) - len(todo)
    if todo and not client.scheduler_info()["workers"]:
        on_event(f"Waiting for the first worker; {client.dashboard_link} shows when one comes.")
    for future in queue:
        identity = identities[future.key]
        state, cause = _outcome(future)
        if state == "done":
            num_done += 1
            on_event(f"done {num_done}/{len(folder.runs)}: {names[identity]}")
            continue
        (failures if state == "failed" else deaths)[identity] += 1
        if failures[identity] < max_attempts and deaths[identity] < MAX_DEATHS:
            on_event(f"again: {names[identity]}: {cause}")
            queue.add(submit(identity))
        else:
            causes[identity] = cause
            on_event(f"failed: {names[identity]}: {cause}")
    return causes


def _outcome(future: Any) -> tuple[str, str]:
    """Return ("done" | "failed" | "died", cause) of a task."""
    if future.status == "finished":
        return future.result()
    return "died", f"the worker was lost: {' '.join(str(future.exception()).split())}"


def perform(path: str, identity: str, num_gpus: int) -> tuple[str, str]:
    """Do one run in a process of its own; called by a Dask worker.

    Where another process is still at work on the run, e.g. one whose worker was killed this moment, wait for its end.
    """
    folder = open_study(Path(path))
    attempts, run_folder = folder.attempts_folder(identity), folder.run_folder(identity)
    while True:
        try:
            if is_done(run_folder, folder.study.evaluation):
                return "done", ""
        except InputError as error:
            return "failed", str(error)
        before = read_attempts(attempts)
        if before and before[-1].is_alive():
            time.sleep(0.5)
            continue
        code = _run_process(folder, identity, num_gpus)
        after = read_attempts(attempts)
        if len(after) == len(before):
            return "failed", f"it did not begin: exit code {code}, see {attempts / 'log.txt'}"
        last = after[-1]
        if last.is_alive():
            continue  # another was quicker to claim it
        if last.ended in ("done", "failed"):
            return last.ended, last.facts.get("cause", "")
        return "died", "it was stopped" if last.ended else f"its process ended with code {code}"


def _run_process(folder: StudyFolder, identity: str, num_gpus: int) -> int:
    """Start the process of a run, hold its lifeline, and return its exit code."""
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
            code = child.poll()
            while code is None:
                time.sleep(0.2)  # Popen.wait would close the lifeline
                code = child.poll()
    return code


def _worker_number() -> int:
    from distributed import get_worker

    name = get_worker().name
    return name if isinstance(name, int) else 0


# --- where the workers are ---


def default_num_workers(folder: StudyFolder, num_gpus: int) -> int:
    """Return one worker a GPU, or as many as the cores have room for."""
    threads = max(run.config["compute"]["num_threads"] or os.cpu_count() or 1 for run in folder.runs)
    return num_gpus or max(1, (os.cpu_count() or 1) // threads)


@contextmanager
def local_client(num_workers: int) -> Iterator[Any]:
    """Yield a client of a Dask cluster on this machine, with one process and one thread a worker."""
    distributed = import_distributed()
    import dask

    if num_workers < 1:
        raise InputError(f"`workers` must be at least 1, got {num_workers}.")
    # A run that takes a worker down is counted by `run_study`, which knows why.
    settings = {
        "distributed.scheduler.allowed-failures": 10 * MAX_DEATHS,
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.work-stealing": False,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # a port of its own, so that studies do not meet
            memory_limit=None,
            silence_logs="CRITICAL",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@contextmanager
def remote_client(address: str) -> Iterator[Any]:
    """Yield a client of a scheduler that runs already; its workers must see the study folder under the same path."""
    distributed = import_distributed()
    try:
        client = distributed.Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise InputError(f"`scheduler` {address} does not answer: {' '.join(str(error).split())}") from None
    with client:
        yield client


@contextmanager
def cluster_client(file: Path) -> Iterator[Any]:
    """Yield a client of the cluster that a YAML file describes: its class, num_workers and options.

    Raises:
        InputError: a file that is not of this form, or a package that is not installed.
    """
    distributed = import_distributed()
    cluster_class, num_workers, options = read_cluster_file(file)
    try:
        cluster = cluster_class(**options)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"`cluster` {file} could not be started: {message}") from None
    with cluster, distributed.Client(cluster) as client:
        cluster.scale(num_workers)
        yield client


def read_cluster_file(file: Path) -> tuple[Any, int, dict[str, Any]]:
    """Return (cluster class, workers, options) of a cluster file.

    Raises:
        InputError: it is not of this form, or names a package that is not installed.
    """
    values = read_yaml(file, "cluster")
    known = ["class", "num_workers", "options"]
    for name in values:
        if name not in known:
            raise InputError(f"`cluster` {file}: `{name}` is not a setting{nearest(str(name), known)}")
    written, num_workers = str(values.get("class")), values.get("num_workers", 1)
    options = values.get("options") or {}
    name = written.rpartition(".")[2]
    if name not in CLUSTERS or written not in (name, f"{CLUSTERS[name][0]}.{name}"):
        raise InputError(f"`class` {written!r} is not a known cluster{nearest(name, list(CLUSTERS))}")
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
        raise InputError(f"`num_workers` must be at least 1, got {num_workers!r}.")
    if not isinstance(options, dict):
        raise InputError(f"`options` must be a mapping, got {options!r}.")
    module, package = CLUSTERS[name]
    try:
        return getattr(import_module(module), name), num_workers, options
    except ImportError:
        raise InputError(f"`class` {name} is not installed: pip install {package}") from None


def import_distributed() -> Any:
    """Import Dask's scheduler.

    Raises:
        RunError: it is not installed.
    """
    try:
        import distributed
    except ImportError:
        raise RunError('Studies need Dask: pip install "dask[distributed]"') from None
    return distributed
