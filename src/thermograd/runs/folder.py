"""The files of a run folder, apart from its checkpoints.

config.yaml (resolved)  requested.yaml  plugins/ start.safetensors (copies)  environment.json  status.json  .lock
metrics.jsonl (append-only, one writer)  checkpoints/  samples/  curves.png  measurements.jsonl  README.md (model card)
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thermograd.config.plugins import PLUGINS, copy_plugin
from thermograd.config.resolve import validate, validate_config, with_overrides
from thermograd.config.schema import RunConfig
from thermograd.config.start import START
from thermograd.errors import InputError
from thermograd.files import (
    LOCK,
    begun_writing,
    is_running,
    read_json,
    read_yaml,
    remove_leftovers,
    sync,
    this_process,
    write_atomically,
)
from thermograd.machine import environment, resolve_device
from thermograd.version import __version__

if TYPE_CHECKING:
    from thermograd.data import ImageDataset


def read_config(folder: Path) -> RunConfig:
    """Read the resolved config of a run folder, and load no plugin: names of algorithms are taken on trust.

    Raises:
        InputError: the folder is not there or holds no run.
    """
    return validate(RunConfig, _read_values(folder), checked_before=True)


def open_config(folder: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read the resolved config of a run folder that is to be worked with, and load the copies of its plugins.

    Args:
        folder: run folder.
        overrides: dotted settings in place of those of the folder.

    Raises:
        InputError: the folder is not there or holds no run, or a copy of a plugin is missing or was changed.
    """
    return validate_config(with_overrides(_read_values(folder), overrides or {}), folder / PLUGINS)


def _read_values(folder: Path) -> dict[str, Any]:
    if not (folder / "config.yaml").is_file():
        raise InputError(f"`run` {folder} is not a run folder: it has no config.yaml.")
    return read_yaml(folder / "config.yaml", "run")


def write_status(folder: Path, state: str, step: int, num_steps: int, cause: str | None = None) -> None:
    """Write status.json: running, stopped, failed or done, with the step, the time and the process."""
    status = {"state": state, "step": step, "num_steps": num_steps, "updated": time.time(), **this_process()}
    if cause is not None:
        status["cause"] = cause
    write_atomically(folder / "status.json", json.dumps(status, indent=1))


def read_status(folder: Path) -> dict[str, Any]:
    """Return status.json of a run folder; empty where it was not begun, or the file is damaged.

    A run whose process is gone, as can be seen on its own machine, is "interrupted" and not "running".
    """
    try:
        status = read_json(folder / "status.json", "run")
    except InputError:
        return {}
    if not isinstance(status, dict):
        return {}
    if status.get("state") == "running" and is_running(status) is False:
        return {**status, "state": "interrupted"}
    return status


def read_environment(folder: Path) -> dict[str, Any]:
    """Return what `environment` found when a run began, empty where that was not kept or is damaged."""
    try:
        facts = read_json(folder / "environment.json", "run")
    except InputError:
        return {}
    return facts if isinstance(facts, dict) else {}


def write_model_card(folder: Path, config: RunConfig, metrics: list[dict[str, Any]]) -> None:
    """Write README.md: what the model is, what it learnt from, and how to use it."""
    last: dict[str, Any] = next((record for record in reversed(metrics) if record["kind"] == "train"), {})
    shape = "x".join(map(str, config.model.image_shape))
    rows = "\n".join(
        f"| {name} | {last[name]:.6g} |"
        for name in ("log_likelihood", "energy_posterior", "energy_prior")
        if name in last
    )
    begun = "" if config.start_from is None else f"It began with the weights of {config.start_from}.\n"
    write_atomically(
        folder / "README.md",
        f"# {config.preset}, seed {config.seed}\n\n"
        f"A latent space energy-based prior model of {shape} images of {config.data.name}, "
        f"{config.model.latent_dim} latent numbers,\n"
        f"trained by {config.gradient.estimator} for {config.training.num_epochs} epochs "
        f"(thermograd {__version__}, config {config.identity}).\n{begun}\n"
        f"| last training batch | nats, mean over images |\n|---|---|\n{rows}\n\n"
        "`thermograd sample DIR`, `thermograd evaluate DIR`; in Python `thermograd.load_run(DIR).sample(64)`.\n",
    )


RUN_ENTRIES = (
    PLUGINS,
    START,
    "checkpoints",
    "samples",
    "report",
    "comparisons",
    "gradients",
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


def claim_folder(
    folder: Path,
    config: RunConfig,
    requested: Mapping[str, Any],
    overwrite: bool,
    data: "ImageDataset",
    start: bytes | None = None,
) -> None:
    """Make a folder that this process holds this config's, or check that it is.

    environment.json tells how the images were read: their range, and what was recognised and left out. `start` is the
    file of the weights that the run begins with, where it has one.

    Raises:
        InputError: it is the run of another config, or holds something else.
    """
    import yaml

    replaced = overwrite and (folder / "config.yaml").exists()
    if replaced:
        _remove_run(folder)
    if (folder / "config.yaml").exists():
        held = read_config(folder)
        _check_same_plugins(held, config, folder)
        if held.trajectory != config.trajectory:
            raise InputError(
                f"`out` {folder} holds the run of another config ({held.trajectory}, not {config.trajectory}): "
                f"{'; '.join(_differences(held, config))}. Choose another folder, or --overwrite."
            )
        if held != config:  # what changes no trained number may change
            write_atomically(folder / "config.yaml", config.to_yaml())
        return
    # A run that was killed before its config was written has left no more than these.
    begun = {folder / name for name in ("requested.yaml", "environment.json", PLUGINS, START, LOCK)} | set(
        begun_writing(folder)
    )
    if not replaced and set(folder.iterdir()) - begun:
        raise InputError(f"`out` {folder} is not empty and holds no run.")
    remove_leftovers(folder)
    facts = environment(resolve_device(config.compute.device))
    facts["data"] = {
        "name": data.name,
        "num_images": len(data),
        "fingerprint": data.fingerprint,
        "value_range": list(data.value_range),
        "notes": list(data.notes),
    }
    write_atomically(
        folder / "requested.yaml", yaml.safe_dump(json.loads(json.dumps(requested, default=str)))
    )
    write_atomically(folder / "environment.json", json.dumps(facts, indent=1))
    for plugin in config.plugins:
        copy_plugin(plugin.sha256, folder)
    if start is not None:
        write_atomically(folder / START, start)
    write_atomically(folder / "config.yaml", config.to_yaml())
    sync(folder.parent)


def _check_same_plugins(held: RunConfig, config: RunConfig, folder: Path) -> None:
    kept = {plugin.file.name: plugin for plugin in held.plugins}
    for plugin in config.plugins:
        if kept.get(plugin.file.name, plugin) != plugin:
            raise InputError(
                f"`plugins` {plugin.file} has changed since the run in {folder} began. Go on with its own copy "
                f"by `thermograd resume {folder}`, choose another folder, or --overwrite."
            )


def _differences(old: RunConfig, new: RunConfig) -> list[str]:
    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        items: dict[str, Any] = {}
        for name, value in values.items():
            items |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return items

    before, after = flat(old.trained()), flat(new.trained())
    missing = "none"
    return [
        f"{name} {before.get(name, missing)} there, {after.get(name, missing)} now"
        for name in before | after
        if name != "training.num_epochs" and before.get(name, missing) != after.get(name, missing)
    ]
