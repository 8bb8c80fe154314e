"""One config, one run folder: train it, go on with it, load it.

A run folder holds config.yaml (resolved), requested.yaml, environment.json, metrics.jsonl (append-only, one writer),
checkpoints, samples, status.json and a model card. Starting the same config again goes on where it stopped.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thermograd import __version__
from thermograd.checkpoint import Checkpoint, load_checkpoint, load_last, save_checkpoint, write_atomically
from thermograd.config import RunConfig, read_yaml, validate_config
from thermograd.data import (
    ImageDataset,
    batch_order,
    binarise,
    first_images,
    load_dataset,
    load_user_images,
    to_tensor,
)
from thermograd.errors import InputError, RunError
from thermograd.generation import sample_images, sample_posterior
from thermograd.models.energy import EnergyNetwork
from thermograd.models.generator import ConvGenerator, DenseGenerator
from thermograd.models.latent_ebm import LatentEBM
from thermograd.pictures import image_grid, pairs_grid, save_curves, save_png
from thermograd.streams import stream
from thermograd.training import Trainer

OnStep = Callable[[int, int, dict[str, Any]], None]
"""Called after each step with the steps done, the steps in all and the record."""


def build_model(config: RunConfig) -> LatentEBM:
    """Build the model of a config on its device, with initial weights that are a function of the seed."""
    settings = config.model
    shape = settings.image_shape
    generator_class = ConvGenerator if settings.generator.kind == "conv" else DenseGenerator
    squash = settings.likelihood == "gaussian"
    generator = generator_class(
        settings.latent_dim, shape, settings.generator.widths, squash, stream(config.seed, "init-generator")
    )
    energy = EnergyNetwork(
        settings.latent_dim,
        settings.energy.hidden,
        settings.energy.activation,
        stream(config.seed, "init-prior"),
    )
    model = LatentEBM(
        energy,
        generator,
        latent_dim=settings.latent_dim,
        image_shape=shape,
        likelihood=settings.likelihood,
        noise_std=settings.noise_std,
        base_std=settings.base_std,
    )
    return model.to(resolve_device(config.compute.device))


def resolve_device(name: str) -> torch.device:
    """Return the device that a config names; "auto" takes a GPU where there is one.

    Raises:
        InputError: an unknown device, or one that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"`compute.device` must be auto, cpu, cuda or cuda:N, got {name!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"`compute.device` must be auto, cpu, cuda or cuda:N, got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"`compute.device` {name!r} is not there: this machine has {torch.cuda.device_count()} GPUs."
        )
    return device


def load_data(config: RunConfig, split: str = "train") -> ImageDataset:
    """Load the images of a config.

    Raises:
        InputError: images that the model's `image_shape` does not fit, or fewer than a batch.
    """
    num_images = config.data.num_images if split == "train" else None
    if config.data.path is not None:
        data = load_user_images(config.data.path, split)
        data = first_images(data, num_images)
    else:
        data = load_dataset(config.data.name, split, num_images=num_images)
    found = (data.num_channels, data.image_size, data.image_size)
    if found != config.model.image_shape:
        raise InputError(
            f"`model.image_shape` must be {list(found)} for {data.name}, got {list(config.model.image_shape)}."
        )
    return data


def batch_images(
    config: RunConfig, data: ImageDataset, index: Any, epoch: int, device: torch.device
) -> Tensor:
    """Return images (B, C, H, W) as the likelihood takes them, binarised by the config's rule."""
    x = to_tensor(data.images[index])
    if config.data.binarise != "none":
        generator = stream(config.seed, "binarise", epoch * len(data) + int(index[0]))
        x = binarise(x, config.data.binarise, config.data.threshold, generator)
    return x.to(device)


# --- the run ---


@dataclass(frozen=True)
class Run:
    """A run that was loaded back: its folder, config, model and data.

    Attributes:
        folder: the run folder.
        config: as resolved.
        model: with the weights of the checkpoint, averaged ones where the run keeps them.
        checkpoint: what was loaded.
    """

    folder: Path
    config: RunConfig
    model: LatentEBM
    checkpoint: Checkpoint

    def data(self, split: str = "train") -> ImageDataset:
        """Load the run's images."""
        return load_data(self.config, split)

    def trainer(self) -> Trainer:
        """Return the training state at the checkpoint, with the weights that were being trained."""
        trainer = Trainer(self.config, build_model(self.config), len(self.data()))
        _restore(trainer, self.checkpoint)
        return trainer


def load_run(folder: Path | str, checkpoint: str | None = None) -> Run:
    """Load a run folder: config, model and checkpoint.

    Args:
        folder: the run folder.
        checkpoint: a name such as "step_00001000"; None for the newest whole one.

    Raises:
        InputError: not a run folder, no checkpoint yet, or a damaged one.
    """
    folder = Path(folder)
    config = read_config(folder)
    _use_threads(config, folder)
    if checkpoint is not None:
        loaded: Checkpoint | None = load_checkpoint(folder / "checkpoints" / checkpoint)
    else:
        loaded, messages = load_last(folder / "checkpoints")
        for message in messages:
            print(f"warning: {message} The one before it is used.", file=sys.stderr)
    if loaded is None:
        raise InputError(f"`run` {folder} has no checkpoint yet.")
    _check_same(loaded, config)
    model = build_model(config)
    model.load_state_dict(dict(loaded.parts.get("ema", loaded.parts["model"])))
    return Run(folder, config, model, loaded)


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


def train_run(
    config: RunConfig,
    folder: Path,
    *,
    requested: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    on_message: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Train a run from its config, or from its last checkpoint where there is one.

    Args:
        config: the run.
        folder: run folder; made where it is missing.
        requested: what was asked for on top of the preset, kept beside the resolved config.
        overwrite: remove the run that the folder holds, once config and data are known to be good.
        on_step: called after each step.
        on_message: called with a sentence for the user.
        should_stop: asked after each step; True saves a checkpoint and stops.

    Returns:
        "done" or "stopped".

    Raises:
        InputError: the folder holds a run of another config, or the data does not fit.
        RunError: a guard stopped the run; the message names the step and the last good checkpoint.
    """
    _use_threads(config, None if overwrite else folder)
    data = load_data(config)
    order = batch_order(
        len(data), config.training.batch_size, config.seed, 0
    )  # refuses a batch of too many images
    trainer = Trainer(config, build_model(config), len(data))
    _claim(folder, config, requested or {}, overwrite)
    checkpoint, messages = load_last(folder / "checkpoints")
    for message in messages:
        on_message(f"{message} The run goes on from the checkpoint before it.")
    if checkpoint is not None:
        _check_same(checkpoint, config, data)
        _restore(trainer, checkpoint)
        on_message(f"Going on from {checkpoint.path.name}.")
    loop = _Loop(config, folder, data, trainer, len(order), on_step)
    step = loop.step = 0 if checkpoint is None else checkpoint.step
    write_status(folder, "running", step, loop.num_steps)
    try:
        finished = loop.run(should_stop)
    except (RunError, MemoryError) as error:
        write_status(folder, "failed", loop.step, loop.num_steps, cause=str(error))
        last, _ = load_last(folder / "checkpoints")
        where = "none was written yet" if last is None else str(last.path)
        raise RunError(f"{error} Last good checkpoint: {where}.") from error
    write_status(folder, "done" if finished else "stopped", loop.step, loop.num_steps)
    return "done" if finished else "stopped"


class _Loop:
    """The loop over steps of one run, with what it writes on the way."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        data: ImageDataset,
        trainer: Trainer,
        steps_per_epoch: int,
        on_step: OnStep | None,
    ):
        self.config, self.folder, self.data, self.trainer = config, folder, data, trainer
        self.steps_per_epoch, self.on_step = steps_per_epoch, on_step
        self.num_steps = steps_per_epoch * config.training.num_epochs
        self.step = 0

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Run to the end, or until asked to stop; return whether the end was reached."""
        settings = self.config.training
        every = settings.checkpoint_every or self.steps_per_epoch
        _end_torn_line(self.folder / "metrics.jsonl")
        with (self.folder / "metrics.jsonl").open("a") as metrics:
            for epoch, index in self._batches():
                begun = time.perf_counter()
                x = batch_images(self.config, self.data, index, epoch, self.trainer.device)
                record = self.trainer.step(x, torch.from_numpy(index), self.step, epoch)
                record["seconds"] = time.perf_counter() - begun
                self.step += 1
                end_of_epoch = self.step % self.steps_per_epoch == 0
                if self.step % settings.log_every == 0 or end_of_epoch or self.step == 1:
                    metrics.write(
                        json.dumps({"kind": "train", "step": self.step, "epoch": epoch, **record}) + "\n"
                    )
                    metrics.flush()
                if self.on_step is not None:
                    self.on_step(self.step, self.num_steps, record)
                finished = self.step == self.num_steps
                if end_of_epoch and ((epoch + 1) % settings.pictures_every == 0 or finished):
                    self._draw_pictures(epoch + 1)
                stopping = should_stop() and not finished
                if self.step % every == 0 or finished or stopping:
                    self._save(epoch)
                if stopping:
                    return False
        write_model_card(self.folder, self.config, read_metrics(self.folder))
        return True

    def _batches(self) -> Iterator[tuple[int, Any]]:
        """Yield (epoch, image indices) from the current step on; batches are a function of (seed, epoch)."""
        first_epoch, first_batch = divmod(self.step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.config.training.num_epochs):
            order = batch_order(len(self.data), self.config.training.batch_size, self.config.seed, epoch)
            yield from ((epoch, index) for index in order[first_batch:])
            first_batch = 0

    def _save(self, epoch: int) -> None:
        trainer = self.trainer
        parts = {"model": trainer.model.state_dict(), "training_state": trainer.tensors()}
        if trainer.average is not None:
            parts["ema"] = trainer.average
        state = {
            "epoch": epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "config": self.config.identity,
            "data": self.data.fingerprint,
        }
        folder = self.folder / "checkpoints"
        save_checkpoint(folder, self.step, parts, state, self.config.training.num_checkpoints)
        write_status(self.folder, "running", self.step, self.num_steps)

    def _draw_pictures(self, epoch: int) -> None:
        """Draw samples and reconstructions, always from the same streams, so that grids can be compared."""
        config, folder = self.config, self.folder / "samples"
        model = build_model(config)
        model.load_state_dict(self.trainer.average or self.trainer.model.state_dict())
        samples = sample_images(model, config.prior_chains, 64, config.seed)
        save_png(image_grid(samples.images), folder / f"samples_epoch_{epoch:04d}.png")
        x = batch_images(config, self.data, range(min(32, len(self.data))), 0, self.trainer.device)
        posterior = sample_posterior(model, x, config.seed, step_size=config.posterior_chains.step_size)
        originals = 2 * x - 1 if config.model.likelihood == "bernoulli" else x
        pairs = pairs_grid(originals, model.decode(posterior.latents[-1, 0]))
        save_png(pairs, folder / f"reconstructions_epoch_{epoch:04d}.png")
        title = f"{config.preset}, {config.gradient.estimator}, seed {config.seed}"
        save_curves(read_metrics(self.folder), self.folder / "curves.png", title)


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


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, commit and machine: what a reader needs to make the numbers again."""
    names = ("torch", "numpy", "scipy", "torchmetrics", "safetensors", "pydantic")
    here = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
        commit = asked.stdout.strip() or None
    except OSError:  # a machine without git
        commit = None
    return {
        "thermograd": __version__,
        "commit": commit,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "num_threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in names},
        "command": sys.argv,
    }


def processor_name() -> str:
    """Return the processor's name, as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


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
        "`thermograd sample DIR`, `thermograd evaluate DIR`; in Python `thermograd.run.load_run(DIR)`.\n"
    )


RUN_ENTRIES = (
    "checkpoints",
    "samples",
    "metrics.jsonl",
    "evaluation.json",
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


def _claim(folder: Path, config: RunConfig, requested: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder this config's, or check that it is."""
    import yaml

    if folder.exists() and not folder.is_dir():
        raise InputError(f"`out` {folder} is a file, not a folder.")
    replaced = overwrite and (folder / "config.yaml").exists()
    if replaced:
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


def _check_same(checkpoint: Checkpoint, config: RunConfig, data: ImageDataset | None = None) -> None:
    """Check that a checkpoint is of this config, and of these images.

    Raises:
        InputError: it is not.
    """
    if checkpoint.state["config"] != config.identity:
        raise InputError(
            f"`config.yaml` beside {checkpoint.path} is not the config of that checkpoint: "
            f"{config.identity}, not {checkpoint.state['config']}."
        )
    if data is not None and checkpoint.state["data"] != data.fingerprint:
        raise InputError(
            f"`data` {data.name} has changed since {checkpoint.path} was written: "
            f"{data.fingerprint[:12]}..., not {checkpoint.state['data'][:12]}...."
        )


def _end_torn_line(file: Path) -> None:
    """End a line that a crash cut short, so that the next record has a line of its own."""
    if file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        with file.open("a") as metrics:
            metrics.write("\n")


def _restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    trainer.model.load_state_dict(dict(checkpoint.parts["model"]))
    trainer.load_tensors(checkpoint.parts["training_state"], checkpoint.parts.get("ema"))


def _use_threads(config: RunConfig, folder: Path | None) -> None:
    """Use the config's threads, or those with which the run began: their number changes the last bits."""
    threads = config.compute.num_threads
    if threads is None and folder is not None and (folder / "environment.json").is_file():
        threads = json.loads((folder / "environment.json").read_text())["num_threads"]
    if threads is not None:
        torch.set_num_threads(threads)
