"""The files of a run folder, apart from its checkpoints.

config.yaml (resolved)  requested.yaml  environment.json  metrics.jsonl (append-only, one writer)  status.json
checkpoints/  samples/  curves.png  measurements.jsonl  README.md (model card)
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thermograd.config.resolve import validate_config
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.files import read_yaml, write_atomically
from thermograd.machine import environment, resolve_device
from thermograd.version import __version__


def read_config(folder: Path) -> RunConfig:
    """Read the resolved config of a run folder.

    Raises:
        InputError: the folder is not there or holds no run.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError(f"`run` {folder} is not a run folder: it has no config.yaml.")
    return validate_config(read_yaml(folder / "config.yaml"))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl: one record a step and kind, the last written wins; a torn last line is left out."""
    records: dict[tuple[str, int], dict[str, Any]] = {}
    file = folder / "metrics.jsonl"
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a write that a crash cut short; the step is done again and written again
        records[record["kind"], record["step"]] = record
    return sorted(records.values(), key=lambda record: record["step"])


def write_status(folder: Path, state: str, step: int, num_steps: int, cause: str | None = None) -> None:
    """Write status.json: running, stopped, failed or done, with the step and the time."""
    status = {
        "state": state,
        "step": step,
        "num_steps": num_steps,
        "updated": time.time(),
        "pid": os.getpid(),
    }
    if cause is not None:
        status["cause"] = cause
    write_atomically(folder / "status.json", json.dumps(status, indent=1))


def read_environment(folder: Path) -> dict[str, Any]:
    """Return what `environment` found when a run began, empty where that was not kept."""
    file = folder / "environment.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def write_model_card(folder: Path, config: RunConfig, metrics: list[dict[str, Any]]) -> None:
    """Write README.md: what the model is, what it learnt from, and how to use it."""
    last: dict[str, Any] = next((record for record in reversed(metrics) if record["kind"] == "train"), {})
    shape = "x".join(map(str, config.model.image_shape))
    rows = "\n".join(
        f"| {name} | {last[name]:.6g} |"
        for name in ("log_likelihood", "energy_posterior", "energy_prior")
        if name in last
    )
    (folder / "README.md").write_text(
        f"# {config.preset}, seed {config.seed}\n\n"
        f"A latent space energy-based prior model of {shape} images of {config.data.name}, "
        f"{config.model.latent_dim} latent numbers,\n"
        f"trained by {config.gradient.estimator} for {config.training.num_epochs} epochs "
        f"(thermograd {__version__}, config {config.identity}).\n\n"
        f"| last training batch | nats, mean over images |\n|---|---|\n{rows}\n\n"
        "`thermograd sample DIR`, `thermograd evaluate DIR`; in Python `thermograd.runs.run.load_run(DIR)`.\n"
    )


RUN_ENTRIES = (
    "checkpoints",
    "samples",
    "metrics.jsonl",
    "measurements.jsonl",
    "curves.png",
    "status.json",
    "README.md",
    "requested.yaml",
    "environment.json",
    "config.yaml",
)
"""What a run writes into its folder, the config last: while it is there, the folder is a run's."""


def _remove_run(folder: Path) -> None:
    """Remove what a run wrote, and nothing that anyone else put into the folder."""
    read_config(folder)
    for path in (folder / name for name in RUN_ENTRIES):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def claim_folder(folder: Path, config: RunConfig, requested: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder this config's, or check that it is."""
    import yaml

    if folder.exists() and not folder.is_dir():
        raise InputError(f"`out` {folder} is a file, not a folder.")
    replaced = overwrite and (folder / "config.yaml").exists()
    if replaced:
        with only_writer(folder):
            _remove_run(folder)
    if (folder / "config.yaml").exists():
        held = read_config(folder)
        if held != config:
            raise InputError(
                f"`out` {folder} holds the run of another config ({held.identity}, not {config.identity}): "
                f"{'; '.join(_differences(held, config))}. Choose another folder, or --overwrite."
            )
        return
    # A run that was killed before its config was written has left no more than these.
    begun = {"requested.yaml", "environment.json"}
    begun |= {f".writing_{name}" for name in (*begun, "config.yaml")}
    if folder.exists() and not replaced and {path.name for path in folder.iterdir()} - begun:
        raise InputError(f"`out` {folder} is not empty and holds no run.")
    facts = environment(resolve_device(config.compute.device))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"`out` {folder} can not be made: {error.strerror}.") from None
    write_atomically(
        folder / "requested.yaml", yaml.safe_dump(json.loads(json.dumps(requested, default=str)))
    )
    write_atomically(folder / "environment.json", json.dumps(facts, indent=1))
    write_atomically(folder / "config.yaml", config.to_yaml())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone; the system lets go when the process ends, however it ends.

    File systems and platforms without locks are not held.

    Raises:
        InputError: another process trains this run.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / "config.yaml").open("r+") as file:  # NFS locks only what may be written
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"`out` {folder} is being trained by another process.") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
                raise
        yield


def _differences(old: RunConfig, new: RunConfig) -> list[str]:
    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        items: dict[str, Any] = {}
        for name, value in values.items():
            items |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return items

    before, after = flat(old.model_dump(mode="json")), flat(new.model_dump(mode="json"))
    return [
        f"{name} {before[name]} there, {after[name]} now" for name in before if before[name] != after[name]
    ]


def end_torn_line(file: Path) -> None:
    """End a line that a crash cut short, so that the next record has a line of its own."""
    if file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        with file.open("a") as metrics:
            metrics.write("\n")
