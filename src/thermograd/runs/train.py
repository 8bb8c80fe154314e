"""The loop of one run on disk: train it, and go on where it stopped.

Starting the same config again goes on where it stopped; what a run folder holds is told in `folder`.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from thermograd.config.schema import RunConfig
from thermograd.data import ImageDataset, batch_order
from thermograd.errors import InputError, RunError, failure, is_out_of_memory
from thermograd.files import hold
from thermograd.machine import resolve_device
from thermograd.progress import tell
from thermograd.runs.checkpoint import list_checkpoints, load_last, save_checkpoint, step_of
from thermograd.runs.folder import (
    claim_folder,
    read_environment,
    write_model_card,
    write_status,
)
from thermograd.runs.metrics import Extent, MetricsFile, read_metrics
from thermograd.runs.opening import open_run
from thermograd.runs.pictures import image_grid, pairs_grid, save_curves, save_png
from thermograd.runs.run import check_same, restore, use_threads
from thermograd.runs.start import load_start
from thermograd.training.builder import batch_images, build_model, load_data
from thermograd.training.memory import check_memory, unknown_sizes
from thermograd.training.samples import sample_images, sample_posterior
from thermograd.training.trainer import Trainer

OnStep = Callable[[int, int, dict[str, Any]], None]
"""Called after each step with the steps done, the steps in all and the record."""
OnBreak = Callable[[Path], None]
"""Called with the checkpoint of each step at which the run is to be measured."""


def train_run(
    config: RunConfig,
    folder: Path,
    *,
    requested: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    on_break: OnBreak | None = None,
    measured: Collection[int] = (),
    on_message: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Train a run from its config, or from its last checkpoint where there is one.

    A run that has ended goes on where the config has more epochs, to the bytes of the longer run: batches, learning
    rates and chains are functions of the step, and of no total.

    Args:
        config: the run.
        folder: run folder; made where it is missing.
        requested: what was asked for on top of the preset, kept beside the resolved config.
        overwrite: remove the run that the folder holds, once config and data are known to be good.
        on_step: called after each step.
        on_break: called at each step of `config.measure`, once its checkpoint is saved, and before training goes on
            with each such checkpoint that is there already. If it fails, a warning says so and training goes on.
        measured: steps whose checkpoints are kept beside those of `config.measure`.
        on_message: called with a sentence for the user.
        should_stop: asked after each step; True saves a checkpoint and stops.

    Returns:
        "done" or "stopped".

    Raises:
        InputError: the folder holds a run of another config, another process trains it, or the data does not fit.
        RunError: a guard stopped the run; the message names the step and the last good checkpoint.
    """
    data = load_data(config)
    # Refuses a batch of too many images.
    order = batch_order(len(data), config.training.batch_size, config.seed, 0)
    config.measure.check_clock(config.training.num_epochs, len(order))
    breaks = set(config.measure.steps(config.training.num_epochs, len(order)))
    kept = breaks | set(measured) if config.measure.keep == "measured" else set()
    with hold(folder, "train", "out"):
        if not overwrite:
            _check_length(folder, config, len(order))
        use_threads(config, None if overwrite else folder)
        warning = check_memory(config, len(data), resolve_device(config.compute.device))
        if warning is not None:
            on_message(warning)
        model = build_model(config)
        note = unknown_sizes(config)  # after what is wrong with the model has been told
        if note is not None:
            on_message(note)
        begins = overwrite or not list_checkpoints(folder / "checkpoints")
        start = load_start(config, model, folder) if begins else None
        trainer = Trainer(config, model, len(data))
        claim_folder(folder, config, requested or {}, overwrite, data, start)
        checkpoint, messages = open_run(folder, config.training.num_checkpoints, kept)
        on_message(
            f"{config.gradient.estimator}, {len(data)} images of {data.name}; {_kind_of_machine(trainer.device)}, "
            f"chains in {trainer.precision}."
        )
        for message in messages:
            on_message(message)
        if checkpoint is not None:
            check_same(checkpoint, config, data)
            restore(trainer, checkpoint)
            on_message(f"Going on from {checkpoint.path.name}.")
            _tell_other_device(folder, trainer.device, on_message)
        else:
            for note in data.notes:
                on_message(note)
            if config.start_from is not None:
                on_message(f"It begins with the weights of {config.start_from}.")
        loop = _Loop(config, folder, data, trainer, len(order), on_step, on_message)
        loop.breaks, loop.kept, loop.on_break = breaks, kept, on_break
        loop.step = 0 if checkpoint is None else checkpoint.step
        return _run_to_an_end(loop, should_stop)


def _check_length(folder: Path, config: RunConfig, steps_per_epoch: int) -> None:
    """Refuse fewer epochs than a run has been trained for."""
    newest = max((step_of(path) for path in list_checkpoints(folder / "checkpoints")), default=0)
    if newest > config.training.num_epochs * steps_per_epoch:
        raise InputError(
            f"`training.num_epochs` {config.training.num_epochs} is less than the "
            f"{newest / steps_per_epoch:.4g} epochs that the run in {folder} has; choose another folder."
        )


def _run_to_an_end(loop: "_Loop", should_stop: Callable[[], bool]) -> str:
    """Run a loop, and leave in status.json how it ended, by whatever exception that was."""
    folder, num_steps = loop.folder, loop.num_steps
    state, cause = "failed", None
    try:
        write_status(folder, "running", loop.step, num_steps)
        state = "done" if loop.run(should_stop) else "stopped"
        return state
    except BaseException as error:
        cause = f"{failure(error)}."
        if isinstance(error, KeyboardInterrupt | SystemExit):
            state = "stopped"
        if isinstance(error, RunError | InputError | OSError) or is_out_of_memory(error):
            raise RunError(f"{cause} Last good checkpoint: {_last_good(folder)}.") from error
        raise
    finally:
        with suppress(OSError):  # a full disk; the lock and the pid then tell that nobody trains this run
            write_status(folder, state, loop.step, num_steps, cause)


def _last_good(folder: Path) -> str:
    try:
        last, _ = load_last(folder / "checkpoints")
    except (InputError, OSError) as error:
        return str(error).rstrip(".")
    return "none was written yet" if last is None else str(last.path)


def _tell_other_device(folder: Path, device: torch.device, on_message: Callable[[str], None]) -> None:
    began = str(read_environment(folder).get("device", device.type)).split(":")[0]
    if began != device.type:
        on_message(
            f"warning: this run was begun on {began} and continues on {device.type}: its numbers are "
            f"not those of an undisturbed run."
        )


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
        on_message: Callable[[str], None],
    ):
        self.on_message = on_message
        self.config, self.folder, self.data, self.trainer = config, folder, data, trainer
        self.steps_per_epoch, self.on_step = steps_per_epoch, on_step
        self.num_steps = steps_per_epoch * config.training.num_epochs
        self.step = 0
        self.breaks: Collection[int] = ()
        self.kept: Collection[int] = ()
        self.on_break: OnBreak | None = None

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Run to the end, or until asked to stop; return whether the end was reached."""
        settings = self.config.training
        every = settings.checkpoint_every or self.steps_per_epoch
        self._make_up()
        tell("steps", self.step, self.num_steps)
        with closing(MetricsFile(self.folder / "metrics.jsonl")) as metrics:
            for epoch, index in self._batches():
                begun = time.perf_counter()
                x = batch_images(self.config, self.data, index, epoch, self.trainer.device)
                record = self.trainer.step(x, torch.from_numpy(index), self.step, epoch)
                record["seconds"] = time.perf_counter() - begun
                self.step += 1
                end_of_epoch = self.step % self.steps_per_epoch == 0
                if self.step % settings.log_every == 0 or end_of_epoch or self.step == 1:
                    metrics.append({"kind": "train", "step": self.step, "epoch": epoch, **record})
                if end_of_epoch:
                    for caution in record["warnings"]:
                        self.on_message(f"warning: step {self.step}: {caution['text']}")
                tell("steps", self.step, self.num_steps, f"log p(x|z) {record['log_likelihood']:.1f}")
                if self.on_step is not None:
                    self.on_step(self.step, self.num_steps, record)
                finished, at_break = self.step == self.num_steps, self.step in self.breaks
                stopping = should_stop() and not finished
                # The checkpoint first: what comes after it may fail, and costs nothing.
                if self.step % every == 0 or finished or stopping or at_break:
                    saved = self._save(epoch, metrics.save())
                self._draw_if_due()
                if stopping:
                    return False
                if at_break:
                    self._measure(saved)
        write_model_card(self.folder, self.config, read_metrics(self.folder))
        return True

    def _make_up(self) -> None:
        """Draw and measure what a process that died, or a failure, left out after the checkpoint was saved."""
        self._draw_if_due()
        for path in list_checkpoints(self.folder / "checkpoints"):
            if step_of(path) in self.breaks:
                self._measure(path)

    def _draw_if_due(self) -> None:
        """Draw the pictures at the end of an epoch that is to have some."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        due = epoch % self.config.training.pictures_every == 0 or self.step == self.num_steps
        if self.step and not rest and due:
            self._try(f"pictures of epoch {epoch}", partial(self._draw_pictures, epoch))

    def _measure(self, checkpoint: Path) -> None:
        if self.on_break is not None:
            again = f" `thermograd measure {self.folder}` tries again."
            self._try(f"measurement of {checkpoint.name}", partial(self.on_break, checkpoint), again)

    def _try(self, what: str, work: Callable[[], None], hint: str = "") -> None:
        """Do what training can go on without; a failure is told."""
        try:
            work()
        except Exception as error:
            self.on_message(f"warning: {what} failed: {failure(error)}. Training goes on.{hint}")

    def _batches(self) -> Iterator[tuple[int, Any]]:
        """Yield (epoch, image indices) from the current step on; batches are a function of (seed, epoch)."""
        first_epoch, first_batch = divmod(self.step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.config.training.num_epochs):
            order = batch_order(len(self.data), self.config.training.batch_size, self.config.seed, epoch)
            yield from ((epoch, index) for index in order[first_batch:])
            first_batch = 0

    def _save(self, epoch: int, metrics: Extent) -> Path:
        trainer = self.trainer
        parts = {"model": trainer.model.state_dict(), "training_state": trainer.tensors()}
        if trainer.average is not None:
            parts["ema"] = trainer.weights()
        state = {
            "epoch": epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "config": self.config.trajectory,
            "data": self.data.fingerprint,
        }
        folder = self.folder / "checkpoints"
        num_kept = self.config.training.num_checkpoints
        path = save_checkpoint(folder, self.step, parts, state, num_kept, metrics, self.kept)
        write_status(self.folder, "running", self.step, self.num_steps)
        return path

    def _draw_pictures(self, epoch: int) -> None:
        """Draw samples and reconstructions, always from the same streams, so that grids can be compared."""
        config, folder = self.config, self.folder / "samples"
        model = build_model(config)
        model.load_state_dict(self.trainer.weights())
        samples = sample_images(model, self.trainer.chains.prior.source, 64, config.seed)
        save_png(image_grid(samples.images), folder / f"samples_epoch_{epoch:04d}.png")
        x = batch_images(config, self.data, range(min(32, len(self.data))), 0, self.trainer.device)
        posterior = sample_posterior(model, x, config.seed, step_size=config.posterior_chains.step_size)
        originals = 2 * x - 1 if config.model.likelihood == "bernoulli" else x
        pairs = pairs_grid(originals, model.decode(posterior.latents[-1, 0]))
        save_png(pairs, folder / f"reconstructions_epoch_{epoch:04d}.png")
        title = f"{config.preset}, {config.gradient.estimator}, seed {config.seed}"
        save_curves(read_metrics(self.folder), self.folder / "curves.png", title)


def _kind_of_machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
