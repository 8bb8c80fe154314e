"""Fixtures that several test files share: a cache of their own, a few real-shaped images, and small configs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thermograd.config.plugins import forget_plugins
from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the user's own cache out of the tests, and subprocesses on one thread."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THERMOGRAD_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)  # threads that wait for each other on a loaded machine take minutes
        yield folder


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Forget after each test what it registered."""
    yield
    forget_plugins()


@pytest.fixture(scope="session")
def images_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a .npy file of 40 blurred 8x8 images, of which 36 are for training."""
    noise = np.random.default_rng(0).random((40, 8, 8))
    smooth = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, 2, 1)) / 4
    file = tmp_path_factory.mktemp("images") / "smooth.npy"
    np.save(file, (255 * smooth).astype(np.uint8))
    return file


TINY: dict[str, Any] = {
    "model.latent_dim": 4,
    "model.energy.hidden": [8],
    "model.generator.widths": [16],
    "prior_chains.kernel": "ula",
    "prior_chains.start": "base",
    "prior_chains.num_steps": 3,
    "prior_chains.num_updates": 1,
    "posterior_chains.num_steps": 2,
    "optimiser.prior_lr": 2e-4,
    "optimiser.generator_lr": 1e-3,
    "optimiser.ema_decay": None,
    "training.batch_size": 8,
    "training.num_epochs": 3,
    "training.pictures_every": 1000,
    "training.log_every": 2,
    "compute.num_threads": 1,
    "compute.device": "cpu",
}
STUDY_TINY = {name: value for name, value in TINY.items() if name != "measure.keep"}
"""The same for the runs of a study, which has a clock of its own."""
LADDER: dict[str, Any] = {
    "gradient.estimator": "thermodynamic-complete",
    "gradient.num_rungs": 4,
    "gradient.num_chains": 2,
    "gradient.schedule.kind": "equal-length",
    "gradient.schedule.adapt_every": 3,
    "posterior_chains.kernel": "mala",
    "posterior_chains.start": "persistent",
    "prior_chains.kernel": "mala",
    "prior_chains.start": "persistent",
    "optimiser.ema_decay": 0.9,
}
"""A ladder with all the state that a run can have: an adapted schedule, adapted steps and stored chains."""
"""A run of 36 images in batches of 8, so 4 steps an epoch and 12 in all."""


@pytest.fixture(scope="session")
def tiny_config(images_file: Path) -> Callable[..., RunConfig]:
    """Return a function from dotted overrides to a config that trains within a second."""

    def make(overrides: dict[str, Any] | None = None) -> RunConfig:
        data = {"data.path": str(images_file), "data.name": "smooth", "measure.keep": "last"}
        return resolve("digits", overrides={**data, **TINY, **(overrides or {})})[0]

    return make
