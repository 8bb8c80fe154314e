"""`thermograd train` and `thermograd resume`."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thermograd.cli.common import (
    OVERRIDES,
    emit,
    folder_argument,
    json_option,
    parse_overrides,
    parse_value,
    plugins_option,
    working,
)
from thermograd.config.names import preset_names
from thermograd.errors import InputError

if TYPE_CHECKING:
    from thermograd.config.schema import RunConfig

OPTIONS = (
    "--config",
    "--out",
    "--seed",
    "--epochs",
    "--plugins",
    "--data",
    "--from",
    "--overwrite",
    "--no-measure",
    "--dry-run",
    "--json",
)
SHORT = {"seed": "seed", "epochs": "training.num_epochs"}
"""Option -> the setting that it is short for."""


@click.command(context_settings=OVERRIDES, epilog=f"Presets: {', '.join(preset_names())}.")
@click.argument("preset")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="YAML file of settings on top of the preset."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [default: runs/PRESET-HASH].")
@click.option("--seed", help="Seed of every random stream.")
@click.option("--epochs", help="Passes over the data.")
@plugins_option
@click.option("--data", help="A folder of images, or a .npy, .npz, idx or HDF5 file.")
@click.option(
    "--from",
    "start_from",
    metavar="RUN[@CHECKPOINT]",
    help="A run folder whose weights training starts from.",
)
@click.option("--overwrite", is_flag=True, help="Remove the run in the folder first.")
@click.option("--no-measure", is_flag=True, help="Measure nothing now; `thermograd measure` does it later.")
@click.option("--dry-run", is_flag=True, help="Print the resolved settings and stop.")
@json_option
@click.pass_context
def train(
    context: click.Context,
    preset: str,
    file: Path | None,
    out: Path | None,
    data: str | None,
    start_from: str | None,
    overwrite: bool,
    no_measure: bool,
    dry_run: bool,
    as_json: bool,
    **short: Any,
) -> None:
    """Train PRESET; set any setting by --group.name VALUE.

    `--dry-run` prints every setting. The same command continues a run that was stopped.
    """
    from thermograd.config.resolve import resolve

    overrides = parse_overrides(context.args, OPTIONS)
    words: dict[str, str] = {}
    for name, setting in SHORT.items():
        if short[name] is not None:
            overrides[setting] = parse_value(short[name])
            words[setting.rpartition(".")[2]] = f"--{name}"
    if short["plugins"]:
        overrides["plugins"] = [str(plugin) for plugin in short["plugins"]]
    if data is not None:
        if not data:
            raise InputError("`--data` must be a file or a folder, got ''.")
        # The whole path, so that `resume` finds it from any folder.
        path = Path(data).expanduser().resolve()
        overrides |= {"data.path": str(path), "data.name": path.name}
    if start_from is not None:
        overrides["start_from"] = start_from
    config, requested = resolve(preset, file=file, overrides=overrides, words=words)
    if dry_run:
        emit(config.model_dump(mode="json"), as_json, config.to_yaml().rstrip())
        return
    folder = out or Path("runs") / f"{preset}-{config.trajectory}"
    _train(config, folder, requested, as_json, overwrite, measured=not no_measure)


@click.command(context_settings=OVERRIDES)
@folder_argument
@click.option("--epochs", help="Passes over the data in all [default: as the run says].")
@click.option("--no-measure", is_flag=True, help="Measure nothing now; `thermograd measure` does it later.")
@json_option
@click.pass_context
def resume(context: click.Context, folder: Path, epochs: str | None, no_measure: bool, as_json: bool) -> None:
    """Continue the run in DIR from its last whole checkpoint, or for more epochs after its end.

    Settings that change no trained number can follow, as --measure.every "2 epochs".
    """
    from thermograd.runs.folder import open_config

    overrides = parse_overrides(context.args, ("--epochs", "--no-measure", "--json"))
    if epochs is not None:
        overrides["training.num_epochs"] = parse_value(epochs)
    _train(open_config(folder, overrides), folder, {}, as_json, measured=not no_measure)


def _train(
    config: "RunConfig",
    folder: Path,
    requested: dict[str, Any],
    as_json: bool,
    overwrite: bool = False,
    *,
    measured: bool = True,
) -> None:
    from thermograd.evaluation.clock import train_measured
    from thermograd.evaluation.records import measured_steps
    from thermograd.machine import peak_memory, resolve_device
    from thermograd.runs.metrics import read_metrics
    from thermograd.runs.train import train_run

    with _showing(as_json) as say, _stop_signal() as stopped:
        trained = train_measured if measured else partial(train_run, measured=measured_steps(folder))
        state = trained(
            config,
            folder,
            requested=requested,
            overwrite=overwrite,
            on_message=say,
            should_stop=stopped.is_set,
        )
    if state == "stopped":
        print(f"Stopped and saved. Go on with: thermograd resume {folder}", file=sys.stderr)
        raise click.exceptions.Exit(130)
    last = (read_metrics(folder) or [{}])[-1]
    pictures = sorted(
        str(path) for path in (folder / "samples").glob(f"*_epoch_{config.training.num_epochs:04d}.png")
    )
    peak = peak_memory(resolve_device(config.compute.device))
    record = {
        "folder": str(folder),
        "state": state,
        "last": last,
        "peak_memory_gib": peak,
        "pictures": pictures,
    }
    held = "" if peak is None else f" (peak memory {peak:.2f} GiB)"
    lines = [f"Done: {folder}{held}"] + [f"  {path}" for path in (*pictures, folder / "curves.png")]
    emit(record, as_json, "\n".join([*lines, f"Next: thermograd evaluate {folder}"]))


@contextmanager
def _showing(as_json: bool) -> Iterator[Callable[[str], None]]:
    """Show how far training is; machines get what it says as lines of JSON."""
    if as_json:
        yield lambda message: print(json.dumps({"message": message}), file=sys.stderr)
        return
    with working(as_json) as say:
        yield say


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to save and stop; the second one stops at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: object) -> None:
        stopped.set()
        print("Stopping after this step ...", file=sys.stderr)
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, request)
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
