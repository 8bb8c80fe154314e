"""A model that learns in memory: no folder, no preset, any `LatentModel`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thermograd.config.resolve import settings_of
from thermograd.config.schema import LearningConfig
from thermograd.data import ImageDataset, batch_order
from thermograd.errors import InputError, import_extra
from thermograd.models.check import check_model
from thermograd.models.latent_model import LatentModel
from thermograd.training.chains import Chains
from thermograd.training.trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

DEFAULTS: dict[str, Any] = {
    "posterior_chains": {"kernel": "mala", "num_steps": 5, "start": "persistent"},
    "prior_chains": {"kernel": "mala", "num_steps": 40, "start": "persistent"},
    "optimiser": {"prior_lr": 2e-4, "generator_lr": 1e-3},
}
"""What differs here from the settings of a published run: chains that persist, and rates for small networks."""


@dataclass(frozen=True)
class Fit:
    """A trained model, with the records of its training.

    Attributes:
        model: the model, changed in place.
        config: how it was trained.
        records: one per step, as metrics.jsonl of a run holds them.
        chains: its prior and posterior chains, as they stand.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> tg.fit(twin, x, num_epochs=2, batch_size=2).to_dataframe()["step"].tolist()
        [1, 2, 3, 4]
    """

    model: LatentModel
    config: LearningConfig
    records: list[dict[str, Any]] = field(repr=False)
    chains: Chains = field(repr=False)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per step, numbers only."""
        pd = import_extra("pandas")

        numbers = [{k: v for k, v in each.items() if isinstance(v, int | float)} for each in self.records]
        return pd.DataFrame(numbers)


def fit(
    model: LatentModel,
    images: Tensor | ImageDataset,
    *,
    estimator: str = "maximum-likelihood",
    num_epochs: int = 20,
    batch_size: int = 100,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    on_step: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> Fit:
    """Train any `LatentModel` in memory, in place.

    Each step draws the prior and a ladder for a batch from where its chains stand, weighs the draws by the estimator's
    rule, and moves the parameters up the gradient of log p(x).

    Args:
        model: e.g. a `LatentEBM` of your own networks, on the device where it is to be trained.
        images: (N, *image_shape) as the likelihood takes them, or a data set.
        estimator: of the generator's gradient; `thermograd settings gradient` lists them.
        num_epochs: passes over the images.
        batch_size: images per step; an incomplete last batch of an epoch is skipped.
        seed: of every random stream.
        settings: any other setting by its dotted name, e.g. {"posterior_chains.num_steps": 10}.
        on_step: called after each step with the steps done, the steps in all and the record.

    Returns:
        The model with its records and chains.

    Raises:
        InputError: a model or images that do not pass `check_model`, or a setting at fault.
        RunError: a quantity is not finite, chains exploded, or a gradient is exactly zero for too long.

    Example:
        >>> from torch import nn
        >>> decoder = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
        >>> energy = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1), nn.Flatten(-2))
        >>> model = tg.LatentEBM(energy, decoder, latent_dim=4, image_shape=(1, 8, 8))
        >>> fit = tg.fit(model, tg.load_dataset("digits"), num_epochs=1)
        >>> fit.records[-1]["log_likelihood"] > fit.records[0]["log_likelihood"]
        True
    """
    x = images.to_tensor() if isinstance(images, ImageDataset) else images
    x = x.to(next(model.parameters()).device) if isinstance(x, Tensor) else x
    check_model(model, x)
    own = {"seed": seed, "gradient.estimator": estimator}
    own |= {"training.num_epochs": num_epochs, "training.batch_size": batch_size}
    config = settings_of(LearningConfig, DEFAULTS, own | dict(settings or {}))
    if batch_size > len(x):
        raise InputError(f"`batch_size` must be at most the {len(x)} images, got {batch_size}.")
    trainer = Trainer(config, model, len(x))
    records: list[dict[str, Any]] = []
    num_steps = config.training.num_epochs * (len(x) // batch_size)
    for epoch in range(config.training.num_epochs):
        for row in batch_order(len(x), batch_size, config.seed, epoch):
            index = torch.from_numpy(row)
            record = trainer.step(x[index], index, len(records), epoch)
            records.append({"step": len(records) + 1, "epoch": epoch, **record})
            if on_step is not None:
                on_step(len(records), num_steps, records[-1])
    return Fit(model, config, records, trainer.chains)
