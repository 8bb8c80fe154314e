"""One config, one run: train it, go on with it, load it back.

Starting the same config again goes on where it stopped; what a run folder holds is told in `run_folder`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from thermograd.config.schema import RunConfig
from thermograd.data import ImageDataset
from thermograd.errors import InputError
from thermograd.models.latent_ebm import LatentEBM
from thermograd.runs.checkpoint import Checkpoint, load_checkpoint, load_last
from thermograd.runs.folder import open_config, read_environment
from thermograd.samplers.prior import PriorSource
from thermograd.training.builder import build_model, load_data
from thermograd.training.prior_chains import prior_source
from thermograd.training.trainer import Trainer

# --- the run ---


@dataclass(frozen=True)
class Run:
    """A run that was loaded back: its folder, config, model and data.

    Attributes:
        folder: the run folder.
        config: the resolved config.
        model: the model with the weights of the checkpoint, averaged ones if the run keeps them.
        checkpoint: the checkpoint that was loaded.
    """

    folder: Path
    config: RunConfig
    model: LatentEBM
    checkpoint: Checkpoint

    @property
    def prior_chains(self) -> PriorSource:
        """Where samples of the prior come from: its chains and their step size at this checkpoint."""
        return prior_source(self.config, self.checkpoint.parts["training_state"])

    def data(self, split: str = "train") -> ImageDataset:
        """Load the run's images."""
        return load_data(self.config, split)

    def trainer(self) -> Trainer:
        """Return the training state at the checkpoint, with the weights that were being trained."""
        trainer = Trainer(self.config, build_model(self.config), len(self.data()))
        restore(trainer, self.checkpoint)
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
    config = open_config(folder)
    use_threads(config, folder)
    if checkpoint is not None:
        loaded: Checkpoint | None = load_checkpoint(folder / "checkpoints" / checkpoint)
    else:
        loaded, messages = load_last(folder / "checkpoints")
        for message in messages:
            print(f"warning: {message} The one before it is used.", file=sys.stderr)
    if loaded is None:
        raise InputError(f"`run` {folder} has no checkpoint yet.")
    check_same(loaded, config)
    model = build_model(config)
    model.load_state_dict(dict(loaded.parts.get("ema", loaded.parts["model"])))
    return Run(folder, config, model, loaded)


def check_same(checkpoint: Checkpoint, config: RunConfig, data: ImageDataset | None = None) -> None:
    """Check that a checkpoint is of this config, and of these images.

    Raises:
        InputError: it is not.
    """
    if checkpoint.state["config"] != config.trajectory:
        raise InputError(
            f"`config.yaml` beside {checkpoint.path} is not the config of that checkpoint: "
            f"{config.trajectory}, not {checkpoint.state['config']}."
        )
    if data is not None and checkpoint.state["data"] != data.fingerprint:
        raise InputError(
            f"`data` {data.name} has changed since {checkpoint.path} was written: "
            f"{data.fingerprint[:12]}..., not {checkpoint.state['data'][:12]}...."
        )


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Give a trainer the weights and the training state of a checkpoint."""
    trainer.model.load_state_dict(dict(checkpoint.parts["model"]))
    trainer.load_tensors(checkpoint.parts["training_state"], checkpoint.parts.get("ema"))


def use_threads(config: RunConfig, folder: Path | None) -> None:
    """Use the config's threads, or those with which the run began: their number changes the last bits."""
    threads = config.compute.num_threads
    if threads is None and folder is not None:
        threads = read_environment(folder).get("num_threads")
    if threads is not None:
        torch.set_num_threads(threads)
