"""Where the workers of a study are: this machine, a scheduler that runs already, or a cluster to start.

Schedulers that listen beyond this machine speak TLS unless the cluster file says `security: false`; dashboards are on
the loopback address.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from thermograd.errors import InputError, RunError, failure, import_extra, nearest
from thermograd.files import make_folder, read_yaml
from thermograd.study.folder import StudyFolder
from thermograd.study.jobs import Jobs, Workers, watched_job

CLUSTERS = {
    "LocalCluster": ("distributed", "dask[distributed]"),
    "SLURMCluster": ("dask_jobqueue", "dask-jobqueue"),
    "PBSCluster": ("dask_jobqueue", "dask-jobqueue"),
    "KubeCluster": ("dask_kubernetes.operator", "dask-kubernetes"),
}
"""Cluster class -> (module, what to install); the class may be written with its module."""
NUM_LOSSES = 100
"""Workers that a task may lose before Dask itself gives it up; `run_study`, which knows why, does so far earlier."""
LOOPBACK = "127.0.0.1"


def default_num_workers(folder: StudyFolder, num_gpus: int) -> int:
    """Return one worker for each GPU, or as many as the cores have room for."""
    threads = max(run.config["compute"]["num_threads"] or os.cpu_count() or 1 for run in folder.runs)
    return num_gpus or max(1, (os.cpu_count() or 1) // threads)


@contextmanager
def local_client(num_workers: int) -> Iterator[tuple[Any, Workers]]:
    """Yield a client of a Dask cluster on this machine, with one process and one thread for each worker."""
    distributed = import_distributed()
    if num_workers < 1:
        raise InputError(f"`workers` must be at least 1, got {num_workers}.")
    with _settings():
        try:
            cluster = distributed.LocalCluster(
                n_workers=num_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=f"{LOOPBACK}:0",  # a port of its own, so that studies do not meet
                memory_limit=None,
                silence_logs="CRITICAL",
            )
        except Exception as error:  # a nanny whose worker died says so by a RuntimeError, among others
            raise RunError(f"The workers on this machine did not start: {failure(error)}.") from error
        with cluster, distributed.Client(cluster) as client:
            yield client, Workers()


@contextmanager
def remote_client(address: str) -> Iterator[tuple[Any, Workers]]:
    """Yield a client of a scheduler that runs already; its workers must see the study folder under the same path."""
    distributed = import_distributed()
    try:
        client = distributed.Client(address, timeout="20s")
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise InputError(f"`scheduler` {address} does not answer: {failure(error)}.") from None
    with client:
        yield client, Workers()


@contextmanager
def cluster_client(file: Path, folder: StudyFolder) -> Iterator[tuple[Any, Workers]]:
    """Yield a client of the cluster that a YAML file describes: its class, num_workers and options.

    Raises:
        InputError: a file that is not of this form, or a package or command that is not installed.
    """
    distributed = import_distributed()
    cluster_class, num_workers, options = read_cluster_file(file)
    jobs = folder.path.resolve() / "jobs"
    with _settings():
        try:
            cluster = cluster_class(**_safe(cluster_class, options, jobs))
        except InputError:
            raise
        except Exception as error:  # of the class that the file names, whatever it is
            raise InputError(f"`cluster` {file} could not be started: {failure(error)}.") from None
        _quote_certificates(cluster)
        with cluster, distributed.Client(cluster) as client:
            cluster.scale(num_workers)
            yield client, Jobs(cluster) if _is_queue(cluster_class) else Workers()


def read_cluster_file(file: Path) -> tuple[Any, int, dict[str, Any]]:
    """Return (cluster class, workers, options) of a cluster file.

    Raises:
        InputError: it is not of this form, or names a package or command that is not installed.
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
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or not 1 <= num_workers <= 10_000:
        raise InputError(f"`num_workers` must be at least 1 and at most 10,000, got {num_workers!r}.")
    if not isinstance(options, dict):
        raise InputError(f"`options` must be a mapping, got {options!r}.")
    module, package = CLUSTERS[name]
    try:
        found = getattr(import_module(module), name)
    except ImportError:
        raise InputError(f"`class` {name} is not installed: pip install {package}") from None
    if _is_queue(found):
        command = shlex.split(found.job_cls.submit_command)[0]
        if shutil.which(command) is None:
            raise InputError(f"`class` {name} needs the command {command}, which is not on this machine.")
    return found, num_workers, options


def import_distributed() -> Any:
    """Import Dask's scheduler.

    Raises:
        InputError: it is not installed.
    """
    return import_extra("distributed")


def _settings() -> Any:
    import dask

    return dask.config.set(
        {
            "distributed.scheduler.allowed-failures": NUM_LOSSES,
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.scheduler.work-stealing": False,
        }
    )


def _is_queue(cluster_class: Any) -> bool:
    return hasattr(cluster_class, "job_cls")


def _safe(cluster_class: Any, options: dict[str, Any], jobs: Path) -> dict[str, Any]:
    """Return options with TLS, a dashboard on the loopback address, and jobs that leave a trace in the study."""
    options = dict(options)
    plain = options.get("security") is False
    if plain:
        options.pop("security")
    if cluster_class.__name__ == "LocalCluster":
        options.setdefault("dashboard_address", f"{LOOPBACK}:0")
        if options.get("host", LOOPBACK) not in (LOOPBACK, "localhost") and not plain:
            options.setdefault("security", _tls())
    if not _is_queue(cluster_class):
        return options
    scheduler = {"dashboard_address": f"{LOOPBACK}:0", **(options.get("scheduler_options") or {})}
    options["scheduler_options"] = scheduler
    make_folder(jobs)
    if not plain and options.get("security") in (None, True):
        options["security"] = _tls()
        keys = jobs / "tls"
        make_folder(keys)
        keys.chmod(0o700)
        options.setdefault("shared_temp_directory", str(keys))
    # The job's script is a shell's: paths with spaces are quoted here, since dask-jobqueue does not.
    for name in ("local_directory", "python"):
        if name in options:
            options[name] = shlex.quote(str(options[name]))
    options.setdefault("python", shlex.quote(sys.executable))
    options["job_cls"] = watched_job(cluster_class.job_cls, jobs)
    return options


def _tls() -> bool:
    if find_spec("cryptography") is None:
        raise InputError(
            "`security` needs TLS for a scheduler that others can reach: pip install cryptography, "
            "or say `security: false` under `options` for a plain one."
        )
    return True


def _quote_certificates(cluster: Any) -> None:
    security = getattr(cluster, "_job_kwargs", {}).get("security")
    for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
        path = getattr(security, name, None)
        if isinstance(path, str) and "\n" not in path:
            setattr(security, name, shlex.quote(path))
