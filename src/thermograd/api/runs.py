"""Runs as objects: load a config and images, train, and ask a run for all it can tell."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from thermograd.api.models import estimate_evidence
from thermograd.config import resolve as settings_of
from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig
from thermograd.data import ImageDataset, first_images, load_user_images
from thermograd.data import load_dataset as load_named
from thermograd.errors import InputError, import_extra
from thermograd.evaluation.clock import train_measured
from thermograd.evaluation.evaluate import evaluate_run
from thermograd.evaluation.records import Record
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.evaluation.variance import VarianceSettings, variance_of_run
from thermograd.evidence import Evidence
from thermograd.progress import shown
from thermograd.runs import run as runs
from thermograd.runs.metrics import read_metrics
from thermograd.runs.train import OnStep, train_run
from thermograd.sharing import push, save_pretrained
from thermograd.training.builder import batch_images
from thermograd.training.samples import Samples, sample_images, sample_posterior

if TYPE_CHECKING:
    import pandas as pd


def load_config(preset: str, file: Path | str | None = None, **overrides: Any) -> RunConfig:
    """Build the config of a run from a preset, a YAML file and overrides, in this order.

    Args:
        preset: a name that `thermograd presets` lists.
        file: settings on top of the preset.
        overrides: groups of settings, or dotted names: `training={"num_epochs": 5}`, `**{"training.num_epochs": 5}`.

    Raises:
        InputError: one line that names each field and value at fault.

    Example:
        >>> config = tg.load_config("digits", training={"num_epochs": 5})
        >>> config.training.num_epochs
        5
    """
    return resolve(preset, file=None if file is None else Path(file), overrides=overrides)[0]


def load_dataset(name: str | Path, split: str = "train", num_images: int | None = None) -> ImageDataset:
    """Load images by the name of a data set, or by the path of a folder or file.

    Args:
        name: one of `thermograd data list`, or a folder of images, or a .npy, .npz, idx or HDF5 file.
        split: "train" or "test".
        num_images: how many, the first ones; None for all.

    Raises:
        InputError: an unknown name, or a path that holds no images.

    Example:
        >>> tg.load_dataset("digits", "test")
        ImageDataset(name='digits', split='test', 297 images of 8x8x1)
    """
    path = Path(name).expanduser()
    if path.exists() or len(path.parts) > 1:
        images = load_user_images(path, split)
        return first_images(images, num_images)
    return load_named(str(name), split, num_images=num_images)


class Run(runs.Run):
    """A trained run: its folder, config and model, with methods to sample and measure it.

    Attributes:
        folder: the run folder.
        config: the resolved config.
        model: the model with the weights of the checkpoint, averaged ones if the run keeps them.
        checkpoint: the checkpoint that was loaded.

    Example:
        >>> run = tg.train("digits", "runs/example", training={"num_epochs": 1})
        >>> run.sample(4).images.shape
        torch.Size([4, 1, 8, 8])
    """

    def sample(self, num_images: int = 64, seed: int = 0) -> Samples:
        """Draw images from the model by its own prior chains; the same seed gives the same images."""
        return sample_images(self.model, self.prior_chains, num_images, seed)

    def images(self, split: str = "test", num_images: int = 64) -> Tensor:
        """Return the first images of a split as the likelihood takes them, (N, C, H, W)."""
        data, device = self.data(split), next(self.model.parameters()).device
        return batch_images(self.config, data, range(min(num_images, len(data))), 0, device)

    def reconstruct(self, split: str = "test", num_images: int = 64, seed: int = 0) -> Tensor:
        """Return the mean image of one posterior draw for each of the first images of a split, (N, C, H, W)."""
        x, step_size = self.images(split, num_images), self.config.posterior_chains.step_size
        posterior = sample_posterior(self.model, x, seed, step_size=step_size)
        return self.model.decode(posterior.latents[-1, 0])

    def metrics(self) -> "pd.DataFrame":
        """Return the training records, one row per record, numbers only."""
        pd = import_extra("pandas")

        records = [each for each in read_metrics(self.folder) if each["kind"] == "train"]
        return pd.DataFrame(
            [{k: v for k, v in each.items() if isinstance(v, int | float)} for each in records]
        )

    def evaluate(self, **settings: Any) -> Record:
        """Measure the run on a split and keep the record; `settings` are fields of `EvaluationSettings`."""
        return evaluate_run(self, settings_of.validate(EvaluationSettings, settings))

    def evidence(self, split: str = "test", num_images: int = 100, **settings: Any) -> Evidence:
        """Estimate log p(x) of the first images of a split, with errors; `settings` as in `estimate_evidence`."""
        x, short = self.images(split, num_images), self.config.prior_chains.is_short_run
        return estimate_evidence(self.model, x, short_run_prior=short, **settings)

    def variance(self, **settings: Any) -> Record:
        """Measure the variance and bias of the learning gradient; `settings` are fields of `VarianceSettings`."""
        return variance_of_run(self, settings_of.validate(VarianceSettings, settings))

    def save_pretrained(
        self, folder: Path | str, *, licence: str | None = None, name: str | None = None
    ) -> Path:
        """Write the model into a folder for others: config, weights, model card; `tg.load_pretrained` reads it.

        Args:
            folder: a new one, an empty one, or an earlier export, which is replaced.
            licence: of the weights, as the hub names it, e.g. "apache-2.0".
            name: of the model in its card; None for the folder's.

        Raises:
            InputError: a folder that holds something else.
        """
        return save_pretrained(self, folder, licence=licence, name=name)

    def push(self, name: str, *, licence: str | None = None, private: bool = False) -> str:
        """Share the model on the Hugging Face hub as OWNER/NAME (extra `hub`), and return the address.

        Raises:
            InputError: a name that is not OWNER/NAME, huggingface_hub is not installed, or the hub refuses.
            RunError: the hub cannot be reached.
        """
        return push(self, name, licence=licence, private=private)

    def resume(self, **options: Any) -> "Run":
        """Go on from the last whole checkpoint to the end; `options` are those of `train`."""
        return train(self.config, self.folder, **options)

    def __repr__(self) -> str:
        """Return the folder, the preset and the step."""
        return f"Run({str(self.folder)!r}, {self.config.preset}, step {self.checkpoint.step})"


def load_run(folder: Path | str, checkpoint: str | None = None) -> Run:
    """Load a run folder: config, model and checkpoint.

    Args:
        folder: the run folder.
        checkpoint: a name such as "step_00001000"; None for the newest whole one.

    Raises:
        InputError: not a run folder, no checkpoint yet, or a damaged one.

    Example:
        >>> _ = tg.train("digits", "runs/example", training={"num_epochs": 1})
        >>> tg.load_run("runs/example").checkpoint.step
        11
    """
    return Run(**vars(runs.load_run(folder, checkpoint)))


def train(
    config: RunConfig | str,
    out: Path | str | None = None,
    *,
    overwrite: bool = False,
    measured: bool = True,
    show_progress: bool | None = None,
    on_step: OnStep | None = None,
    on_message: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
    **overrides: Any,
) -> Run:
    """Train a run in a folder, or continue it where it stopped.

    It is measured during training and at the end, as its settings `measure` say.

    Args:
        config: a config, or the name of a preset.
        out: the run folder, made where it is missing; None for runs/PRESET-TRAJECTORY.
        overwrite: remove the run that the folder holds, once config and data are known to be good.
        measured: measure the run; if not, `thermograd measure` can do it later.
        show_progress: on standard error; None to show it where that is a terminal or a notebook.
        on_step: called after each step with the steps done, the steps in all and the record.
        on_message: called with a sentence for the user.
        should_stop: asked after each step; True saves a checkpoint and stops.
        overrides: settings on top of a preset, as `load_config` takes them.

    Returns:
        The run at its last checkpoint.

    Raises:
        InputError: settings or data at fault, a folder of another run, or one that another process trains.
        RunError: a guard stopped the run; the message names the step and the last good checkpoint.

    Example:
        >>> run = tg.train("digits", "runs/example", training={"num_epochs": 1})
        >>> run
        Run('runs/example', digits, step 11)
    """
    requested: Mapping[str, Any] = {}
    if isinstance(config, str):
        config, requested = resolve(config, overrides=overrides)
    elif overrides:
        raise InputError(
            f"`{next(iter(overrides))}` is a setting of the config that was given; set it there."
        )
    folder = Path("runs") / f"{config.preset}-{config.trajectory}" if out is None else Path(out)
    with nullcontext() if show_progress is False else shown(only_live=show_progress is None):
        (train_measured if measured else train_run)(
            config,
            folder,
            requested=requested,
            overwrite=overwrite,
            on_step=on_step,
            on_message=on_message,
            should_stop=should_stop,
        )
    return load_run(folder)
