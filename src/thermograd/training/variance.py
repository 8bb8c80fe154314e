"""The variance of the learning gradient of any model, by several estimators on the same batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thermograd.config.measure import Changes
from thermograd.config.resolve import settings_of
from thermograd.config.schema import LearningConfig
from thermograd.errors import InputError, import_extra
from thermograd.gradients.reference import ReferenceSettings, reference_gradient
from thermograd.gradients.variance import Measurement
from thermograd.models.check import check_model
from thermograd.models.latent_model import LatentModel
from thermograd.streams import stream
from thermograd.training.chains import Chains
from thermograd.training.probe import (
    NUM_PILOT_STEPS,
    estimator_config,
    make_samplers,
    measure_batches,
)

if TYPE_CHECKING:
    import pandas as pd

DEFAULTS: dict[str, Any] = {
    "posterior_chains": {"kernel": "mala", "num_steps": 20},
    "prior_chains": {"kernel": "mala", "num_steps": 60},
}
NUM_PRIOR_PILOTS = 20
"""Visits in which the prior's step size follows the acceptance."""


@dataclass(frozen=True)
class GradientVariance:
    """The variance of several estimators of one model's learning gradient.

    Attributes:
        measurements: of each estimator; `Measurement.summary` holds every quantity with its interval.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> found = tg.gradient_variance(twin, x.split(1), num_repeats=2)
        >>> found.to_dataframe()["network"].unique().tolist()
        ['generator', 'total']
    """

    measurements: dict[str, Measurement] = field(repr=False)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per estimator, network and quantity: value, low and high of its 95 % interval."""
        pd = import_extra("pandas")

        rows = [
            {"estimator": name, "network": network, "quantity": quantity, **estimate.record()}
            for name, measured in self.measurements.items()
            for network, quantities in measured.summary().items()
            if network in NETWORKS
            for quantity, estimate in quantities.items()
        ]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        """Return the chain variance and the total of each estimator, a line each."""
        frame = self.to_dataframe()
        wanted = frame[(frame.network == "total") & frame.quantity.isin(["chain_variance", "total_variance"])]
        return wanted.drop(columns="network").to_string(index=False)


NETWORKS = ("prior", "generator", "total")
"""Of which `GradientVariance.to_dataframe` tells; single parameters are in the measurements."""


def gradient_variance(
    model: LatentModel,
    batches: Sequence[Tensor],
    estimators: Sequence[str] = ("maximum-likelihood",),
    *,
    num_repeats: int = 8,
    reference: bool = False,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> GradientVariance:
    """Draw the learning gradient repeatedly on each batch with fixed parameters, by several estimators.

    The chain variance is that over new chains on the same batch, the batch variance that over batches; both are
    unbiased, means over the parameters. Estimators that read the same kind of ladder see the same draws.

    Args:
        model: any `LatentModel`; it is not changed.
        batches: images (B, *image_shape) of each batch, at least 3 for intervals.
        estimators: names of estimators.
        num_repeats: gradients of each batch, at least 2.
        reference: also run long chains for each batch, from which the bias is measured.
        seed: of every random stream.
        settings: any setting of chains and gradient by its dotted name, e.g. {"posterior_chains.num_steps": 40}.

    Raises:
        InputError: a model or images that do not pass `check_model`, an unknown estimator, or counts out of range.

    References:
        Faghri, Duvenaud, Fleet, Ba (2020), A study of gradient variance in deep learning.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(24, torch.Generator().manual_seed(1))
        >>> found = tg.gradient_variance(twin, x.split(8), ["maximum-likelihood", "thermodynamic-detached"])
        >>> sorted(found.measurements)
        ['maximum-likelihood', 'thermodynamic-detached']
    """
    batches = list(batches)
    if not batches:
        raise InputError("`batches` must be at least 1, got 0.")
    for x in batches:
        check_model(model, x)
    size = len(batches[0])
    own = {"seed": seed, "training.batch_size": size} | dict(settings or {})
    config = settings_of(LearningConfig, DEFAULTS, own)
    configs = {name: estimator_config(config, name, Changes()) for name in dict.fromkeys(estimators)}
    chains = _pilot(config, model, batches[0])
    samplers = make_samplers(chains, model, configs, batches[0], stored=False)
    references = None
    if reference:
        generator = stream(seed, "variance-reference", 0, chains.device)
        references = [reference_gradient(model, x, generator, ReferenceSettings()) for x in batches]
    index = np.zeros((len(batches), size), dtype=int)
    found = measure_batches(
        model, samplers, batches, index, num_repeats, f"variance-{seed}", references=references
    )
    return GradientVariance({name: found[name] for name in configs})


def _pilot(config: LearningConfig, model: LatentModel, x: Tensor) -> Chains:
    """Return chains whose step sizes have followed the acceptance on a batch."""
    chains = Chains(config, model, num_images=len(x))
    generator = stream(config.seed, "variance-pilot", 0, chains.device)
    sampler = replace(chains.sampler(torch.arange(len(x))), bottom="chains")
    sampler, _ = sampler.adapt(model, x, sampler.start(model, x, generator), NUM_PILOT_STEPS, generator)
    chains.step_sizes = sampler.step_sizes(chains.step_sizes)
    for step in range(NUM_PRIOR_PILOTS):
        chains.prior.keep(chains.prior.draw(model, step, "variance-pilot-"))
    return chains
